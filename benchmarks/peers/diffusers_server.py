"""One request at a time: diffusers' pipeline behind FastAPI and a lock, as the library's example server has it.

`python -m benchmarks.peers.diffusers_server --folder demo/weights/painter --port 8001 --torch-threads 2`
"""

import argparse
import asyncio
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI

from benchmarks.peers.library_painter import LibraryPainter, answer_of, wish_of


def create_app(painter: LibraryPainter) -> FastAPI:
    app = FastAPI()
    lock = asyncio.Lock()

    @app.post("/paint")
    async def paint(body: dict[str, Any]) -> dict[str, str]:
        async with lock:
            pngs = await asyncio.to_thread(painter.paint, [wish_of(body)])
        return answer_of(pngs[0])

    @app.get("/health")
    async def health() -> str:
        return "ok"

    return app


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--torch-threads", type=int, required=True)
    given = parser.parse_args()
    app = create_app(LibraryPainter(given.folder, torch_threads=given.torch_threads))
    uvicorn.run(app, host="127.0.0.1", port=given.port, log_level="warning")


if __name__ == "__main__":
    main()

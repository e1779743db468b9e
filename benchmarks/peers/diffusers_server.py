"""One request at a time: diffusers' pipeline behind FastAPI, on one thread of its own that also loads it.

The library's example server takes whichever thread of a pool is free. torch keeps threads for each thread that computes, so that
is slower.

`python -m benchmarks.peers.diffusers_server --folder demo/weights/painter --port 8001 --torch-threads 2`
"""

import argparse
import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI

from benchmarks.peers.library_painter import LibraryPainter, answer_of, wish_of


def create_app(folder: Path, *, torch_threads: int) -> FastAPI:
    app = FastAPI()
    thread = ThreadPoolExecutor(1)
    painter = thread.submit(LibraryPainter, folder, torch_threads=torch_threads).result()

    @app.post("/paint")
    async def paint(body: dict[str, Any]) -> dict[str, str]:
        pngs = await asyncio.get_running_loop().run_in_executor(thread, painter.paint, [wish_of(body)])
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
    app = create_app(given.folder, torch_threads=given.torch_threads)
    uvicorn.run(app, host="127.0.0.1", port=given.port, log_level="warning")


if __name__ == "__main__":
    main()

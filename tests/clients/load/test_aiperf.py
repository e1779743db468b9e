"""NVIDIA's AIPerf: chats, chats with pictures, and paintings under load, as its own report tells."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.clients.asked import PAINT, SEE, base_url
from tests.clients.load.ran import ran

COUNT = 12
PICTURES = ("--image-width-mean", "64", "--image-height-mean", "64", "--image-format", "png", "--image-batch-size", "1")
SHORT_PROMPT = ("--synthetic-input-tokens-mean", "24")
SHORT = (*SHORT_PROMPT, "--output-tokens-mean", "8", "--extra-inputs", "ignore_eos:true")


def reported(folder: Path, tokenizer: Path, model: str, kind: str, *more: str) -> dict[str, Any]:
    """Its report, which must count every request and no error."""
    ran(
        *("aiperf", "profile", "--model", model, "--url", base_url().removesuffix("/v1"), "--endpoint-type", kind),
        *("--tokenizer", str(tokenizer), "--request-count", str(COUNT), "--concurrency", "4", "--ui", "none"),
        *("--artifact-dir", str(folder), *more),
        HF_HUB_OFFLINE="",  # else it takes no folder
    )
    (path,) = folder.rglob("profile_export_aiperf.json")
    report: dict[str, Any] = json.loads(path.read_text())
    assert report["request_count"]["avg"] == COUNT
    assert not report.get("error_summary")
    return report


@pytest.mark.parametrize("pictures", [(), PICTURES], ids=["text", "pictures"])
def test_chats(tmp_path: Path, tokenizer: Path, pictures: tuple[str, ...]) -> None:
    report = reported(tmp_path, tokenizer, SEE, "chat", "--streaming", *SHORT, *pictures)
    assert 0 < report["time_to_first_token"]["avg"] <= report["request_latency"]["avg"]
    assert report["output_token_throughput"]["avg"] > 0


def test_paintings(tmp_path: Path, tokenizer: Path) -> None:
    settings = ("--extra-inputs", "size:64x64", "--extra-inputs", "num_inference_steps:2")
    report = reported(tmp_path, tokenizer, PAINT, "image_generation", *SHORT_PROMPT, *settings)
    assert report["request_latency"]["avg"] > 0

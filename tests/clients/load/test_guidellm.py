"""vLLM's GuideLLM: chats under load, as its own report tells."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.clients.asked import SEE, base_url
from tests.clients.load.ran import ran

COUNT = 8


@pytest.mark.parametrize("route", ["/v1/chat/completions", "/v1/completions"])
def test_texts(tmp_path: Path, tokenizer: Path, route: str) -> None:
    path = tmp_path / "report.json"
    ran(
        *("guidellm", "run", "--disable-console"),
        *("--backend", f"kind=openai_http,target={base_url().removesuffix('/v1')},model={SEE},request_format={route}"),
        *("--profile", "kind=concurrent,streams=2", "--constraint", f"kind=max_requests,count={COUNT}"),
        *("--tokenizer", f"kind=huggingface_auto,model={tokenizer}"),
        *("--data", "kind=synthetic_text,prompt_tokens=24,output_tokens=8"),
        *("--output", f"kind=json,path={path}"),
    )
    report: Any = json.loads(path.read_text())
    (benchmark,) = report["benchmarks"]
    totals = benchmark["metrics"]["request_totals"]
    assert (totals["successful"], totals["errored"]) == (COUNT, 0)
    assert benchmark["metrics"]["time_to_first_token_ms"]["successful"]["mean"] > 0
    assert benchmark["metrics"]["output_token_count"]["successful"]["mean"] == 8

"""A dozen of the architectures that `python -m benchmarks.architectures` asks, served and refused."""

from pathlib import Path

import pytest

from tests.stages.llm.library.oracle import Outcome, Verdict, judged
from tests.stages.llm.library.tiny_architectures import VARIANTS

pytestmark = [pytest.mark.models, pytest.mark.slow]

SERVED = ["cohere2", "deepseek_v3", "gemma2", "gpt2", "gpt_oss", "llama4_text", "mixtral", "opt", "phi3"]
REFUSED = {
    "bert": "in one piece",
    "bloom": "cannot be served from slots",
    "gpt_neo": "in one piece",
    "qwen3_next": "linear_attention",
    "rwkv": "in chunks",
}


@pytest.mark.parametrize("kind", SERVED)
def test_it_answers_as_the_librarys_own_generate(kind: str, tmp_path: Path) -> None:
    assert judged(kind, tmp_path) == Outcome(Verdict.EQUAL)


@pytest.mark.parametrize("kind", REFUSED)
def test_one_that_would_answer_otherwise_is_refused_at_load(kind: str, tmp_path: Path) -> None:
    found = judged(kind, tmp_path)
    assert found.verdict is Verdict.REFUSED
    assert REFUSED[kind] in found.reason


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("llama, LongRoPE over its original length", "(longrope) depends on length; llm.max_context_tokens of at most 64"),
        ("llama, dynamic NTK over its original length", "llm.max_context_tokens: 128 is more than the 64"),
    ],
)
def test_rope_that_depends_on_length_is_refused_over_its_original_length(name: str, reason: str, tmp_path: Path) -> None:
    kind, more = VARIANTS[name]
    found = judged(kind, tmp_path, **more)
    assert found.verdict is Verdict.REFUSED
    assert reason in found.reason


@pytest.mark.parametrize("name", ["llama, LongRoPE within its original length", "llama, YaRN"])
def test_rope_that_does_not_get_to_depend_on_length_is_served(name: str, tmp_path: Path) -> None:
    kind, more = VARIANTS[name]
    assert judged(kind, tmp_path, **more) == Outcome(Verdict.EQUAL)

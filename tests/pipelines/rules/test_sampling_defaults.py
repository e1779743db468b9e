"""A checkpoint's generation_config.json is what a request that says nothing gets."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipelines.rules.sampling_defaults import sampling_defaults
from stages.checkpoints.checkpoint import Checkpoint, Source, resolve
from stages.contract.errors import ConfigurationError
from stages.llm.messages import Sampling

OPENAIS = Sampling(max_tokens=512)


def checkpoint(folder: Path, content: str | None) -> Checkpoint:
    if content is not None:
        (folder / "generation_config.json").write_text(content)
    return resolve(Source(folder=str(folder)))


def defaults_of(folder: Path, content: str | None, default_max_tokens: int = 512, limit: int | None = None) -> Sampling:
    return sampling_defaults(checkpoint(folder, content), default_max_tokens, limit)


def test_a_checkpoint_without_the_file_has_openais_defaults(tmp_path: Path) -> None:
    assert defaults_of(tmp_path, None) == OPENAIS


def test_the_fields_that_vllm_takes_are_taken_and_others_are_not(tmp_path: Path) -> None:
    content: dict[str, object] = {"temperature": 0.7, "top_p": 0.8, "top_k": 20, "min_p": 0.05, "repetition_penalty": 1.05}
    content |= {"max_new_tokens": 2048, "do_sample": True, "eos_token_id": [1, 2], "typical_p": 0.5}
    found = defaults_of(tmp_path, json.dumps(content))
    assert found == Sampling(2048, temperature=0.7, top_p=0.8, top_k=20, min_p=0.05, repetition_penalty=1.05)


@pytest.mark.parametrize(
    ("bound", "default", "limit", "found"),
    [(None, 512, None, 512), (2048, 512, None, 2048), (2048, 512, 100, 100), (None, 512, 600, 512)],
)
def test_the_checkpoints_bound_goes_before_the_servers_default_and_neither_over_its_limit(
    tmp_path: Path, bound: int | None, default: int, limit: int | None, found: int
) -> None:
    content = None if bound is None else json.dumps({"max_new_tokens": bound})
    assert defaults_of(tmp_path, content, default, limit).max_tokens == found


@pytest.mark.parametrize("content", [{}, {"do_sample": False}, {"temperature": None, "top_p": 1.0, "top_k": -1}])
def test_what_says_nothing_leaves_openais_defaults(tmp_path: Path, content: dict[str, Any]) -> None:
    assert defaults_of(tmp_path, json.dumps(content)) == OPENAIS


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"temperature": 3}', "generation_config.json: temperature: .*2"),
        ('{"top_p": "much"}', "generation_config.json: top_p"),
        ('{"max_new_tokens": 0}', "generation_config.json: max_new_tokens"),
        ("[", "generation_config.json: the file"),
    ],
)
def test_values_that_cannot_be_served_are_refused_at_start(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        defaults_of(tmp_path, content)

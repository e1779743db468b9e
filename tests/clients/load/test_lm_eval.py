"""EleutherAI's evaluation harness: log-likelihoods by /v1/completions with the server's own tokenizer, answers by the chat's route."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.clients.asked import SEE, base_url
from tests.clients.load.ran import ran

KNOWN = [
    {"question": "The capital of France is", "right": "Paris", "wrong": "banana"},
    {"question": "Two plus two equals", "right": "four", "wrong": "horse"},
    {"question": "The sun rises in the", "right": "east", "wrong": "soup"},
]
CHOICE = """task: known_choice
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{[right, wrong]}}}}"
doc_to_target: 0
metric_list: [{{metric: acc}}]
"""
ANSWER = """task: known_answer
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{right}}}}"
generation_kwargs: {{until: ["\\n"], max_gen_toks: 12}}
metric_list: [{{metric: exact_match}}]
"""


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tasks")
    data = folder / "known.jsonl"
    data.write_text("\n".join(map(json.dumps, KNOWN)))
    for name, task in (("choice", CHOICE), ("answer", ANSWER)):
        (folder / f"{name}.yaml").write_text(task.format(data=data))
    return folder


def result(tasks: Path, task: str, folder: Path, kind: str, route: str, *more: str) -> dict[str, Any]:
    model = f"model={SEE},base_url={base_url()}{route},num_concurrent=2,max_retries=1"
    ran(
        *("lm_eval", "--model", kind, "--model_args", model, "--tasks", task, "--include_path", str(tasks)),
        *("--output_path", str(folder), "--log_samples", *more),
    )
    (path,) = folder.rglob("results_*.json")
    found: dict[str, Any] = json.loads(path.read_text())["results"][task]
    return found


def test_what_everybody_knows_is_likelier_than_nonsense(tmp_path: Path, tasks: Path) -> None:
    found = result(tasks, "known_choice", tmp_path, "local-completions", "/completions")
    assert found["acc,none"] == 1


def test_chats_are_answered(tmp_path: Path, tasks: Path) -> None:
    result(tasks, "known_answer", tmp_path, "local-chat-completions", "/chat/completions", "--apply_chat_template")
    (path,) = tmp_path.rglob("samples_known_answer_*.jsonl")
    samples = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(samples) == len(KNOWN)
    assert all(sample["resps"][0][0] for sample in samples)

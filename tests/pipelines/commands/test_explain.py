"""`triptych explain`, as a person runs it."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from pipelines.cli import app
from pipelines.commands.explain import explained
from tests.pipelines.ingress.fakes import FakeService
from tests.pipelines.ingress.surface import chat_body, server_for

CHOSEN = {
    "stage": "sd.denoiser",
    "replica": "painter-l4#abc",
    "device": "NVIDIA L4",
    "dtype": "float16",
    "queue_s": 0.5,
    "run_s": 2.5,
    "device_s": 0.7,
    "batch_size": 3.5,
    "steps": 30,
    "pool": "painter-l4",
    "expected_s": 2.0,
    "runner_up": "painter-a100#def",
    "runner_up_pool": "painter-a100",
    "runner_up_s": 2.25,
    "remembered": ["its first 10 steps"],
    "reasons": ["it keeps the adapter"],
}
ALONE = {"stage": "sd.vae_decoder", "device": "cpu", "dtype": "float32", "queue_s": 0.0, "run_s": 0.004, "steps": 1}
RECEIPT = {"request_id": "abc", "total_s": 3.1, "device_s": 0.7, "stages": [CHOSEN, ALONE]}
PLAN = {
    "kind": "triptych-plan",
    "goal": "rate",
    "rate": 12.0,
    "target_utilisation": 0.8,
    "is_estimate": True,
    "bound": 12.5,
    "gap": 0.04,
    "bottleneck": "sd.denoiser",
    "pools": [
        {
            "pool": "painter-l4",
            "stages": ["sd.denoiser"],
            "device": "L4",
            "replicas": 12,
            "fraction": 0.5,
            "batch": {"sd.denoiser": 8},
            "utilisation": 0.91,
            "is_estimate": True,
            "reasons": ["an L4 paints most for its price"],
        }
    ],
    "classes": [{"name": "paint", "rate": 12.0, "bounds": [{"setting": "total_s", "bound_s": 20.0, "expected_s": 14.5}]}],
    "one_more": {"L4": {"rate": 0.8, "how": "solved again"}},
    "reasons": ["no device has room for both"],
}


def said(*words: str, typed: str | None = None) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["explain", *words], input=typed)
    return result.exit_code, result.output


def test_a_receipt_says_where_each_stage_ran_why_and_who_was_next(tmp_path: Path) -> None:
    path = tmp_path / "receipt.json"
    path.write_text(json.dumps(RECEIPT))
    assert said(str(path)) == (
        0,
        "request abc: 3.10 s in all, 700 ms of it a device's\n"
        "sd.denoiser: pool painter-l4, replica painter-l4#abc, on NVIDIA L4 in float16\n"
        "  chosen because its result was expected there first, in 2.00 s\n"
        "  next best: pool painter-a100, replica painter-a100#def, in 2.25 s (250 ms later)\n"
        "  remembered there: its first 10 steps\n"
        "  it keeps the adapter\n"
        "  took 3.00 s, 50% longer than expected: waited 500 ms, ran 2.50 s, 30 steps, 3.5 in each on average\n"
        "sd.vae_decoder: on cpu in float32\n"
        "  nobody chose: it had one place to run, or ran in the process that asked\n"
        "  took 4.0 ms: waited 0.0 ms, ran 4.0 ms, 1 steps\n",
    )


@pytest.mark.parametrize("wrap", [lambda receipt: {"triptych": receipt}, lambda receipt: {"triptych": {"receipt": receipt}}])
def test_a_whole_answer_is_as_good_as_its_receipt(wrap: Any) -> None:
    code, output = said("-", typed=json.dumps(wrap(RECEIPT)))
    assert code == 0
    assert output.startswith("request abc")


def test_the_only_candidate_has_no_runner_up() -> None:
    only = {**CHOSEN, "runner_up": None, "runner_up_pool": None, "runner_up_s": None}
    assert "  no other replica could take it" in list(explained({**RECEIPT, "stages": [only]}))


def test_a_plan_says_what_binds_and_what_one_more_device_would_bring() -> None:
    assert list(explained(PLAN)) == [
        "rate: 12 requests a second with devices busy 80% of the time; no plan can reach more than 12.5, a gap of 4.0%",
        "some of it stands on datasheets, not on measurements",
        "bottleneck: sd.denoiser",
        "painter-l4: sd.denoiser on L4; 12 replicas; 0.5 of a device each; batches of up to 8 (sd.denoiser); 91% busy; "
        "its times are estimated from a datasheet",
        "  an L4 paints most for its price",
        "paint: 12 a second; total_s 14.5 in full batches, 20 allowed",
        "one more L4: +0.8 requests a second (solved again)",
        "no device has room for both",
    ]


@pytest.mark.parametrize("text", ["{}", "[]", "words", '{"stages": []}'])
def test_what_is_neither_is_refused(text: str) -> None:
    code, output = said("-", typed=text)
    assert code == 2
    assert output.startswith("error: ")


def test_one_thing_is_explained_at_a_time() -> None:
    for words in ((), ("plan.json", "--live", "abc")):
        code, output = said(*words)
        assert (code, "explain what?" in output) == (2, True)


async def test_a_latest_request_is_explained_by_its_id() -> None:
    import asyncio

    import httpx

    async with server_for(FakeService()) as url:
        async with httpx.AsyncClient(base_url=url, trust_env=False) as client:
            answer = await client.post("/v1/chat/completions", json=chat_body(), headers={"x-request-id": "mine"})
            assert answer.status_code == 200
        code, output = await asyncio.to_thread(said, "--live", "mine", "--url", url)
        assert (code, output.split(":")[0]) == (0, "request mine")
        code, output = await asyncio.to_thread(said, "--live", "another/one", "--url", url)
        assert (code, "no receipt of a request 'another/one'" in output) == (2, True)


def test_a_server_that_is_not_there_is_told() -> None:
    code, output = said("--live", "mine", "--url", "http://127.0.0.1:9")
    assert (code, "does not answer" in output) == (2, True)

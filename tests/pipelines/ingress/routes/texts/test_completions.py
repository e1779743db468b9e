"""POST /v1/completions: what reaches the pipeline, and what comes back, whole and streamed."""

import copy
from typing import Any

import pytest
from openai.types import Completion

from pipelines.ingress.request.settings import IngressSettings
from pipelines.ingress.routes.texts.completion_answers import MAX_TOKENS_A_CHUNK
from pipelines.jobs import CompleteJob, PlainPrompt
from pipelines.settings.schema.config import LimitsConfig
from stages.contract.errors import StageFailed
from tests.pipelines.ingress.fakes import CHAT, DEFAULTS, PAINT, FakeService, Trouble
from tests.pipelines.ingress.surface import JsonObject, client_for, error_of, sse_events

PATH = "/v1/completions"
LOGPROBS: JsonObject = {"echo": True, "logprobs": 1, "max_tokens": 1}


def body(prompt: Any = "a bc", **fields: Any) -> JsonObject:
    return {"model": CHAT, "prompt": prompt, **fields}


def check_type(answer: JsonObject) -> None:
    """Valid as the SDK's type, which knows neither a chunk's open end nor that a prompt's first token has no probability; OpenAI's own
    server says null in both places."""
    choices = copy.deepcopy(answer["choices"])
    for choice in choices:
        choice["finish_reason"] = choice["finish_reason"] or "stop"
        logprobs = choice["logprobs"] or {"token_logprobs": [], "top_logprobs": []}
        logprobs["token_logprobs"] = [value for value in logprobs["token_logprobs"] if value is not None]
        logprobs["top_logprobs"] = [value for value in logprobs["top_logprobs"] if value is not None]
    Completion.model_validate(answer | {"choices": choices})


async def answered(asked: JsonObject, service: FakeService | None = None) -> JsonObject:
    async with client_for(service or FakeService()) as client:
        response = await client.post(PATH, json=asked)
    assert response.status_code == 200, response.text
    check_type(response.json())
    return dict(response.json())


async def streamed(asked: JsonObject, service: FakeService | None = None) -> list[JsonObject]:
    async with client_for(service or FakeService()) as client:
        response = await client.post(PATH, json=asked | {"stream": True})
    assert response.status_code == 200, response.text
    assert response.text.endswith("data: [DONE]\n\n")
    return sse_events(response.text)


async def job_of(asked: JsonObject) -> CompleteJob:
    service = FakeService()
    service.tokens("a bc d")
    await answered(asked, service)
    (job,) = service.jobs
    assert isinstance(job, CompleteJob)
    return job


async def refused(asked: JsonObject, settings: IngressSettings | None = None, status: int = 400) -> JsonObject:
    service = FakeService()
    async with client_for(service, settings) as client:
        response = await client.post(PATH, json=asked)
    assert response.status_code == status, response.text
    assert service.jobs == []
    return error_of(response)


async def test_an_answer_has_openais_shape_with_exact_usage_and_a_receipt() -> None:
    told = await answered(body())
    assert told["id"].startswith("cmpl-")
    assert (told["object"], told["model"], told["system_fingerprint"]) == ("text_completion", CHAT, "triptych")
    assert told["choices"] == [{"index": 0, "text": "A BC", "finish_reason": "stop", "logprobs": None}]
    assert {name: told["usage"][name] for name in ("prompt_tokens", "completion_tokens", "total_tokens")} == {
        "prompt_tokens": 2,
        "completion_tokens": 3,
        "total_tokens": 5,
    }
    assert told["triptych"]["stages"]


async def test_a_prompt_is_a_text_or_tokens_and_there_may_be_several() -> None:
    assert (await job_of(body("a bc"))).prompts == (PlainPrompt("a bc"),)
    assert (await job_of(body([0, 1]))).prompts == (PlainPrompt((0, 1)),)
    assert (await job_of(body(["a", "bc"]))).prompts == (PlainPrompt("a"), PlainPrompt("bc"))
    assert (await job_of(body([[0], [1, 2]]))).prompts == (PlainPrompt((0,)), PlainPrompt((1, 2)))
    assert (await job_of(body("a", add_special_tokens=False))).prompts == (PlainPrompt("a", has_marks=False),)


async def test_choices_of_several_prompts_count_on() -> None:
    told = await answered(body(["a b", "c"], n=2, max_tokens=2))
    assert [(choice["index"], choice["text"], choice["finish_reason"]) for choice in told["choices"]] == [
        (0, "A B", "length"),
        (1, "A B", "length"),
        (2, "C", "stop"),
        (3, "C", "stop"),
    ]
    assert told["usage"]["prompt_tokens"] == 3


async def test_what_is_asked_of_sampling_reaches_the_model_and_the_rest_is_its_own() -> None:
    sampling = (await job_of(body(temperature=0.5, top_k=-1, stop="x", logit_bias={"3": 1}, seed=4))).sampling
    assert (sampling.temperature, sampling.top_k, sampling.stop, sampling.seed) == (0.5, 0, ("x",), 4)
    assert sampling.logit_bias == {3: 1}
    assert sampling.max_tokens == 16
    assert (await job_of(body())).sampling.temperature == DEFAULTS.temperature
    assert (await job_of(body(logprobs=3))).sampling.prompt_logprobs is None
    assert (await job_of(body(logprobs=3, echo=True))).sampling.prompt_logprobs == 3
    assert (await job_of(body(echo=True))).sampling.prompt_logprobs is None


async def test_an_echo_with_logprobs_tells_of_the_prompts_own_tokens() -> None:
    """What evaluation harnesses ask for: all but the last entry are the prompt's."""
    told = await answered(body("a bc d", **LOGPROBS))
    (choice,) = told["choices"]
    assert choice["text"] == "a bc dA"
    assert choice["logprobs"] == {
        "tokens": ["a", " bc", " d", "A"],
        "token_logprobs": [None, -0.5, -0.5, -0.5],
        "top_logprobs": [None, {" bc0": -1.0, " bc": -0.5}, {" d0": -1.0, " d": -0.5}, {"A0": -1.0, "A": -0.5}],
        "text_offset": [0, 1, 4, 6],
    }


async def test_the_token_that_ends_an_answer_is_told_of_too() -> None:
    """So that there is one entry for each token that was computed."""
    (choice,) = (await answered(body("a", logprobs=0, max_tokens=9)))["choices"]
    assert choice["text"] == "A"
    assert choice["logprobs"]["tokens"] == ["A", "<end>"]
    assert choice["logprobs"]["text_offset"] == [0, 1]


async def test_a_prompt_may_be_echoed_without_an_answer() -> None:
    service = FakeService()
    told = await answered(body("a bc", echo=True, max_tokens=0), service)
    assert told["choices"][0]["text"] == "a bc"
    assert (await answered(body([0, 1], echo=True, max_tokens=0), service))["choices"][0]["text"] == "a bc"


@pytest.mark.parametrize("fields", [{}, {"echo": True}, {"logprobs": 1}, LOGPROBS | {"max_tokens": 2}])
async def test_a_stream_says_the_same_as_the_whole_answer(fields: JsonObject) -> None:
    asked = body(["a bc", "d e f"], n=2, **fields)
    whole, chunks = await answered(asked), await streamed(asked)
    for chunk in chunks:
        check_type(chunk)
    for choice in whole["choices"]:
        own = [one for chunk in chunks for one in chunk["choices"] if one["index"] == choice["index"]]
        assert "".join(one["text"] for one in own) == choice["text"]
        assert [one["finish_reason"] for one in own if one["finish_reason"]] == [choice["finish_reason"]]
        if "logprobs" in fields:
            for name, values in choice["logprobs"].items():
                assert [value for one in own if one["logprobs"] for value in one["logprobs"][name]] == values
    assert "triptych" in chunks[-1]


async def test_what_comes_together_is_said_in_pieces() -> None:
    words = " ".join(f"w{at}" for at in range(200))
    chunks = await streamed(body(words, echo=True, logprobs=0, max_tokens=1))
    sizes = [len(one["logprobs"]["tokens"]) for chunk in chunks for one in chunk["choices"] if one["logprobs"]]
    assert sum(sizes) == 201
    assert max(sizes) <= MAX_TOKENS_A_CHUNK + 2  # and a prompt's first token, and what ends an answer
    assert "".join(one["text"] for chunk in chunks for one in chunk["choices"]) == f"{words}W0"


async def test_usage_comes_last_where_it_is_asked_for() -> None:
    *chunks, last = await streamed(body(stream_options={"include_usage": True}))
    assert all(chunk["usage"] is None for chunk in chunks)
    assert (last["choices"], last["usage"]["total_tokens"]) == ([], 5)
    assert last["triptych"]["stages"]


async def test_an_error_after_the_first_chunk_is_the_last_event() -> None:
    *_, last = await streamed(body("a b c"), FakeService(trouble=Trouble(StageFailed("broke"), after=2)))
    assert last["error"]["code"] == "stage_failed"


@pytest.mark.parametrize(
    ("fields", "param", "told"),
    [
        ({"suffix": "x"}, "suffix", "models here only go on with a text"),
        ({"best_of": 3}, "best_of", "best_of 3 is not supported"),
        ({"n": 2, "best_of": 1}, "best_of", "best_of 1"),
        ({"max_tokens": 0}, "max_tokens", "only with echo"),
        ({"stream_options": {}}, "stream_options", "only with stream"),
        ({"logprobs": 21}, "logprobs", "20"),
        ({"prompt": []}, "prompt", "at least 1"),
        ({"prompt": [[]]}, "prompt[0]", "at least 1"),
        ({"prompt": [-1]}, "prompt[0]", "0"),
        ({"prompt": [2**40]}, "prompt[0]", "2147483647"),
        ({"prompt": ["a", 1]}, "prompt[1]", "a string"),
        ({"n": 9}, "n", "limits.max_choices"),
        ({"prompt": ["a"] * 129}, "prompt", "limits.completion_choices"),
        ({"prompt": ["a"] * 65, "n": 2}, "prompt", "130 prompts (times n); at most 128"),
        ({"typo": 1}, "typo", "not supported"),
    ],
)
async def test_what_cannot_be_done_is_refused_by_name(fields: JsonObject, param: str, told: str) -> None:
    error = await refused(body() | fields)
    assert error["param"] == param
    assert told in error["message"]


async def test_limits_are_told_with_their_settings() -> None:
    settings = IngressSettings(limits=LimitsConfig(max_tokens=5, prompt_chars=10))
    assert "limits.max_tokens" in (await refused(body(max_tokens=6), settings))["message"]
    assert "limits.prompt_chars" in (await refused(body(["a" * 6, "b" * 6]), settings))["message"]


async def test_a_token_that_the_tokenizer_does_not_have_is_named() -> None:
    async with client_for(FakeService()) as client:
        response = await client.post(PATH, json=body([0]))
    assert response.status_code == 400


async def test_a_model_that_does_not_speak_completes_nothing() -> None:
    assert "does not complete texts" in (await refused(body() | {"model": PAINT}))["message"]
    assert (await refused(body() | {"model": "nope"}, status=404))["code"] == "model_not_found"

"""POST /v1/chat/completions, whole answers: what reaches the pipeline, and what comes back."""

import struct
from dataclasses import fields
from typing import Any

import pytest

from pipelines.ingress.request.settings import IngressSettings
from pipelines.ingress.schemas.chat import ChatBody
from pipelines.jobs import ChatJob, ImagePart, TextPart
from pipelines.settings.schema.config import LimitsConfig
from stages.images.pixel_budget import pixels_of_this_process
from stages.llm.messages import Sampling
from tests.pipelines.ingress.fakes import CHAT, DEFAULTS, PAINT, FakeService
from tests.pipelines.ingress.surface import JsonObject, chat_body, client_for, data_url, error_of, image_part, png

PATH = "/v1/chat/completions"


async def asked(body: JsonObject) -> ChatJob:
    """The job that a body becomes."""
    service = FakeService()
    async with client_for(service) as client:
        response = await client.post(PATH, json=body)
    assert response.status_code == 200, response.text
    (job,) = service.jobs
    assert isinstance(job, ChatJob)
    return job


async def refused(body: JsonObject, settings: IngressSettings | None = None) -> JsonObject:
    """The error of a body that must not reach the pipeline."""
    service = FakeService()
    async with client_for(service, settings) as client:
        response = await client.post(PATH, json=body)
    assert response.status_code in (400, 413), response.text
    assert service.jobs == []
    return error_of(response)


async def test_an_answer_has_openais_shape_with_exact_usage_and_a_receipt() -> None:
    async with client_for(FakeService()) as client:
        body = (await client.post(PATH, json=chat_body("one two three"))).json()
    assert body["object"] == "chat.completion"
    assert body["id"].startswith("chatcmpl-")
    assert body["model"] == CHAT
    assert body["system_fingerprint"] == "triptych"
    assert body["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "You said: one two three", "refusal": None},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ]
    assert body["usage"] == {
        "prompt_tokens": 3,
        "completion_tokens": 5,
        "total_tokens": 8,
        "prompt_tokens_details": {"cached_tokens": 0},
    }
    assert [stage["stage"] for stage in body["triptych"]["stages"]] == [f"{CHAT}.vision_encoder", f"{CHAT}.llm"]
    assert body["triptych"]["device_s"] == pytest.approx(0.02)
    assert body["triptych"]["stages"][0]["cache"] == "miss"


async def test_the_second_asking_of_a_prompt_tells_its_cached_tokens() -> None:
    async with client_for(FakeService()) as client:
        await client.post(PATH, json=chat_body("one two three"))
        again = (await client.post(PATH, json=chat_body("one two three"))).json()
    assert again["usage"]["prompt_tokens_details"] == {"cached_tokens": 2}


async def test_every_field_reaches_the_pipeline() -> None:
    job = await asked(
        chat_body(
            max_tokens=7,
            temperature=0.5,
            top_p=0.25,
            seed=-5,
            stop=["END", "\n"],
            logprobs=True,
            top_logprobs=3,
            frequency_penalty=-1.5,
            presence_penalty=2,
            logit_bias={"17": -100, "18": 0.5},
            top_k=40,
            min_p=0.125,
            repetition_penalty=1.25,
            min_tokens=3,
            ignore_eos=True,
            stop_token_ids=[5, 6, 5],
            include_stop_str_in_output=True,
            skip_special_tokens=False,
            n=2,
        )
    )
    assert job.n == 2
    assert not job.may_shorten
    assert job.sampling == Sampling(
        max_tokens=7,
        temperature=0.5,
        top_p=0.25,
        seed=-5,
        stop=("END", "\n"),
        logprobs=3,
        frequency_penalty=-1.5,
        presence_penalty=2.0,
        logit_bias={17: -100.0, 18: 0.5},
        top_k=40,
        min_p=0.125,
        repetition_penalty=1.25,
        min_tokens=3,
        ignore_eos=True,
        stop_token_ids=(5, 6),
        include_stop_str_in_output=True,
        skip_special_tokens=False,
    )


def test_no_field_of_sampling_is_out_of_a_requests_reach() -> None:
    said_otherwise = {"constraint", "shown_tokens", "prompt_logprobs"}  # by response_format and tools; of plain texts
    assert {field.name for field in fields(Sampling)} - said_otherwise <= set(ChatBody.model_fields)


async def test_a_share_of_nothing_is_the_likeliest_token() -> None:
    sampling = (await asked(chat_body(top_p=0, temperature=0.7))).sampling
    assert (sampling.temperature, sampling.top_p) == (0.0, 1.0)


@pytest.mark.parametrize(("top_k", "means"), [(-1, 0), (0, 0), (1, 1)])
async def test_top_k_may_say_all_in_both_of_vllms_ways(top_k: int, means: int) -> None:
    assert (await asked(chat_body(top_k=top_k))).sampling.top_k == means


async def test_what_others_servers_take_changes_nothing_with_the_value_that_asks_for_nothing() -> None:
    """Their clients send their defaults along."""
    nulls = ("cache_salt", "lora_path", "prompt_logprobs", "kv_transfer_params", "mm_processor_kwargs", "ebnf")
    neutral = dict.fromkeys(nulls) | {
        "length_penalty": 1.0,
        "priority": 0,
        "best_of": 1,
        "include_reasoning": True,
        "no_stop_trim": False,
        "rid": "mine",
        "bad_words": [],
        "allowed_token_ids": [],
    }
    assert (await asked(chat_body(**neutral))).sampling == DEFAULTS
    assert (await asked(chat_body(no_stop_trim=True, stop="a"))).sampling.include_stop_str_in_output


async def test_nothing_given_leaves_the_defaults_to_the_model() -> None:
    job = await asked(chat_body())
    assert job.sampling == DEFAULTS
    assert job.may_shorten


async def test_a_request_that_says_what_openais_default_is_gets_it_whatever_the_models_is() -> None:
    sampling = (await asked(chat_body(temperature=1, top_k=0))).sampling
    assert (sampling.temperature, sampling.top_k) == (1.0, 0)
    assert (await asked(chat_body(temperature=0))).sampling.temperature == 0.0


async def test_a_whole_number_may_be_written_with_a_point() -> None:
    job = await asked(chat_body(max_tokens=5.0, n=2.0))
    assert (job.sampling.max_tokens, job.n) == (5, 2)
    assert isinstance(job.sampling.max_tokens, int)


async def test_null_means_not_given() -> None:
    names = ["stream", "stream_options", "max_tokens", "max_completion_tokens", "temperature", "top_p", "n", "seed", "stop"]
    names += ["logprobs", "top_logprobs", "frequency_penalty", "presence_penalty", "logit_bias", "user", "metadata", "tools"]
    names += ["response_format", "audio", "modalities", "store", "service_tier", "triptych", "tool_choice", "functions"]
    assert (await asked(chat_body(**dict.fromkeys([*names, "top_k", "min_p", "repetition_penalty"])))).sampling == DEFAULTS


@pytest.mark.parametrize(
    "fields",
    [
        {"user": "someone"},
        {"metadata": {"purpose": "test"}},
        {"store": False},
        {"service_tier": "auto"},
        {"response_format": {"type": "text"}},
        {"modalities": ["text"]},
        {"tools": []},
        {"tool_choice": "none"},
        {"tool_choice": "auto"},
        {"prompt_cache_retention": "24h"},
        {"request_id": "r"},
        {"verbosity": "low"},
        {"reasoning_effort": "high"},
        {"stream_options": {"include_usage": True, "include_obfuscation": True}, "stream": True},
        {"separate_reasoning": True},
        {"parallel_tool_calls": True},
        {"prompt_cache_key": "k"},
        {"safety_identifier": "s"},
    ],
)
async def test_a_field_without_effect_is_accepted(fields: JsonObject) -> None:
    await asked(chat_body(**fields))


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"functions": []}, "functions"),
        ({"function_call": "auto"}, "function_call"),
        ({"chat_template": "{{ messages }}"}, "chat_template"),
        ({"documents": [{"text": "x"}]}, "documents"),
        ({"modalities": ["audio"]}, "modalities[0]"),
        ({"audio": {"voice": "alloy", "format": "wav"}}, "audio"),
        ({"web_search_options": {}}, "web_search_options"),
        ({"best_of": 3}, "best_of"),
        ({"messages": [{"role": "user", "content": "x", "images": ["aaaa"]}]}, "messages[0].images"),
        ({"messages": [{"role": "user", "content": "x", "audio": {}}]}, "messages[0].audio"),
        ({"messages": [{"role": "assistant", "content": "x", "prefix": True}]}, "messages[0].prefix"),
    ],
)
async def test_a_field_with_an_effect_that_is_not_offered_is_refused_by_name(fields: JsonObject, param: str) -> None:
    error = await refused(chat_body(**fields))
    assert error["param"] == param
    assert error["message"].startswith(param)
    assert error["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("fields", "param", "told"),
    [
        ({"temperature": 2.5}, "temperature", "2.5"),
        ({"temperature": "1"}, "temperature", '"1"'),
        ({"top_p": -0.1}, "top_p", "greater than or equal to 0"),
        ({"min_tokens": -1}, "min_tokens", "0"),
        ({"stop_token_ids": [-1]}, "stop_token_ids[0]", "0"),
        ({"temprature": 1}, "temprature", "did you mean temperature?"),
        ({"bad_words": ["a"]}, "bad_words", "not supported: use logit_bias"),
        ({"prompt_logprobs": 1}, "prompt_logprobs", "not supported: /v1/completions"),
        ({"priority": 5}, "priority", "must be 0"),
        ({"max_token": 1}, "max_token", "did you mean max_tokens?"),
        ({"quux": 1}, "quux", "quux is not supported"),
        ({"n": 0}, "n", "1"),
        ({"n": 9}, "n", "limits.max_choices"),
        ({"max_tokens": 0}, "max_tokens", "1"),
        ({"max_tokens": 3, "max_completion_tokens": 4}, "max_completion_tokens", "give one"),
        ({"seed": 2**63}, "seed", "9223372036854775807"),
        ({"seed": 1.5}, "seed", "1.5"),
        ({"stop": ["a"] * 33}, "stop", "at most 32 items (it has 33)"),
        ({"stop": ""}, "stop", "1"),
        ({"stop": ["a", 5]}, "stop[1]", "5"),
        ({"top_logprobs": 3}, "top_logprobs", "logprobs: true"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "20"),
        ({"logit_bias": {"x": 1}}, "logit_bias.x", "pattern"),
        ({"logit_bias": {"5": 101}}, "logit_bias.5", "100"),
        ({"frequency_penalty": 3}, "frequency_penalty", "2"),
        ({"top_k": -2}, "top_k", "-1"),
        ({"top_k": 2**31}, "top_k", "2147483647"),
        ({"min_p": 1.5}, "min_p", "1"),
        ({"repetition_penalty": 0}, "repetition_penalty", "greater than 0"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "stream: true"),
        ({"messages": []}, "messages", "1"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].tool_call_id", "required"),
        ({"messages": [{"role": "critic", "content": "x"}]}, "messages[0].role", "critic"),
        ({"messages": [{"role": "assistant", "content": None}]}, "messages[0].content", "calls nothing"),
        ({"messages": [{"content": "x"}]}, "messages[0].role", "required"),
        ({"messages": [{"role": "user"}]}, "messages[0].content", "required"),
        ({"messages": "hello"}, "messages", "hello"),
        ({"triptych": {"priority": 99}}, "triptych.priority", "10"),
        ({"triptych": {"speed": 1}}, "triptych.speed", "not supported"),
        ({"model": 5}, "model", "must be a string"),
        ({"messages": {}}, "messages", "must be an array"),
        ({"triptych": 1}, "triptych", "must be an object"),
        ({"stream": "yes"}, "stream", "must be true or false"),
        ({"n": 1.5}, "n", "must be an integer"),
        ({"temperature": []}, "temperature", "must be a number"),
    ],
)
async def test_a_wrong_value_is_told_with_its_field_and_what_is_allowed(fields: JsonObject, param: str, told: str) -> None:
    error = await refused({**chat_body(), **fields})
    assert error["param"] == param
    assert told in error["message"]


@pytest.mark.parametrize(
    ("part", "param"),
    [
        ({"type": "video", "video": {}}, "messages[0].content[1].type"),
        ({"type": "image_url", "image_url": {"url": 5}}, "messages[0].content[1].image_url.url"),
        ({"type": "image_url", "image_url": {}}, "messages[0].content[1].image_url.url"),
        ({"type": "image_url", "image_url": {"url": "data:,x", "detail": "fine"}}, "messages[0].content[1].image_url.detail"),
        ({"type": "image_url", "image_url": "data:,x"}, "messages[0].content[1].image_url"),
        ({"type": "text", "text": None}, "messages[0].content[1].text"),
        ({"type": "text"}, "messages[0].content[1].text"),
        (image_part(b"no image"), "messages[0].content[1].image_url.url"),
        (image_part(png()[:40]), "messages[0].content[1].image_url.url"),
        ({"type": "image_url", "image_url": {"url": "data:image/png;base64,@@@"}}, "messages[0].content[1].image_url.url"),
        ({"type": "image_url", "image_url": {"url": "https://example.org/x.png"}}, "messages[0].content[1].image_url.url"),
        ("plain", "messages[0].content[1]"),
    ],
)
async def test_a_wrong_part_of_a_message_is_told_by_its_place(part: Any, param: str) -> None:
    error = await refused(chat_body([{"type": "text", "text": "look:"}, part]))
    assert error["param"] == param


async def test_a_missing_model_is_told_with_the_models_that_there_are() -> None:
    error = await refused({"messages": [{"role": "user", "content": "x"}]})
    assert error["param"] == "model"
    assert CHAT in error["message"]


async def test_an_unknown_model_is_404_and_a_model_that_does_something_else_400() -> None:
    async with client_for(FakeService()) as client:
        unknown = await client.post(PATH, json={**chat_body(), "model": "gpt-9"})
        other = await client.post(PATH, json={**chat_body(), "model": PAINT})
    assert (unknown.status_code, error_of(unknown)["code"]) == (404, "model_not_found")
    assert (other.status_code, error_of(other)["param"]) == (400, "model")


async def test_turns_and_images_keep_their_order() -> None:
    job = await asked(
        {
            "model": CHAT,
            "messages": [
                {"role": "developer", "content": [{"type": "text", "text": "Be brief."}]},
                {"role": "user", "content": [image_part(png(5, 6)), {"type": "text", "text": "and"}, image_part(png(7, 8))]},
                {"role": "assistant", "content": "Nice.", "refusal": None, "tool_calls": None, "annotations": []},
                {"role": "user", "content": [image_part(png(9, 9))]},
            ],
        }
    )
    assert [message.role for message in job.messages] == ["system", "user", "assistant", "user"]
    shapes = [
        [part.text if isinstance(part, TextPart) else (part.width, part.height) for part in message.parts]
        for message in job.messages
    ]
    assert shapes == [["Be brief."], [(5, 6), "and", (7, 8)], ["Nice."], [(9, 9)]]
    last = job.messages[3].parts[0]
    assert isinstance(last, ImagePart)
    assert last.data == png(9, 9)


async def test_low_detail_is_a_smaller_image_and_high_detail_the_image_itself() -> None:
    large = png(1024, 256)
    job = await asked(chat_body([image_part(large, detail="low"), image_part(large, detail="high")]))
    low, high = job.messages[0].parts
    assert isinstance(low, ImagePart)
    assert isinstance(high, ImagePart)
    assert (low.width, low.height) == (512, 128)
    assert high.data == large


@pytest.mark.parametrize("detail", ["low", "high"])
async def test_a_kilobyte_that_stands_for_any_number_of_pixels_is_refused_by_name(detail: str) -> None:
    head = struct.pack("<IiiHHIIiiII", 40, 70_000, 350, 1, 8, 1, 0, 0, 0, 256, 0)
    bitmap = b"BM" + struct.pack("<IHHI", 1098, 0, 0, 1078) + head + bytes(range(256)) * 4 + b"\xff\1" * 10
    refusal = await refused(chat_body([image_part(png(9, 9)), image_part(bitmap, detail=detail)]))
    assert refusal["param"] == "messages[0].content[1].image_url.url"
    assert "RLE8" in refusal["message"]


async def test_an_image_that_never_fits_what_is_decoded_at_a_time_is_refused_with_the_setting() -> None:
    budget = pixels_of_this_process()
    before = budget.max_pixels
    budget.limit(1024 * 256 - 1)
    try:
        refusal = await refused(chat_body([image_part(png(1024, 256), detail="low")]))
    finally:
        budget.limit(before)
    assert refusal["param"] == "messages[0].content[0].image_url.url"
    assert refusal["code"] == "too_large"
    assert "limits.pixels_in_flight" in refusal["message"]


async def test_more_images_or_text_than_configured_are_refused_with_the_setting() -> None:
    settings = IngressSettings(LimitsConfig(images_per_request=1, prompt_chars=10))
    images = await refused(chat_body([image_part(), image_part()]), settings)
    assert "limits.images_per_request" in images["message"]
    text = await refused(chat_body("x" * 11), settings)
    assert "limits.prompt_chars" in text["message"]


async def test_more_parts_in_all_than_a_template_may_have_to_write_are_refused() -> None:
    message = {"role": "user", "content": [{"type": "text", "text": ""}] * 1024}
    error = await refused(chat_body("x") | {"messages": [message] * 9})
    assert error["param"] == "messages"
    assert "9216 parts; at most 8192" in error["message"]


async def test_an_image_over_the_bounds_is_413_before_it_is_decoded() -> None:
    async with client_for(FakeService(), IngressSettings(LimitsConfig(image_pixels=100))) as client:
        response = await client.post(PATH, json=chat_body([image_part(png(20, 20))]))
    assert response.status_code == 413
    assert "limits.image_pixels" in error_of(response)["message"]


async def test_logprobs_come_with_bytes_and_alternatives() -> None:
    async with client_for(FakeService()) as client:
        body = (await client.post(PATH, json=chat_body("é", logprobs=True, top_logprobs=1))).json()
    content = body["choices"][0]["logprobs"]["content"]
    assert [entry["token"] for entry in content] == ["You", " said:", " é"]
    assert content[2]["bytes"] == [32, 0xC3, 0xA9]
    assert len(content[0]["top_logprobs"]) == 1


async def test_several_choices_count_the_prompt_once() -> None:
    async with client_for(FakeService()) as client:
        body = (await client.post(PATH, json=chat_body("a b", n=3, max_tokens=2))).json()
    assert [choice["index"] for choice in body["choices"]] == [0, 1, 2]
    assert {choice["finish_reason"] for choice in body["choices"]} == {"length"}
    assert (body["usage"]["prompt_tokens"], body["usage"]["completion_tokens"]) == (2, 6)


async def test_a_data_url_may_say_any_image_type() -> None:
    job = await asked(chat_body([{"type": "image_url", "image_url": {"url": data_url(png(), "jpeg")}}]))
    assert isinstance(job.messages[0].parts[0], ImagePart)


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
async def test_a_bound_over_the_configured_one_is_refused_and_without_one_the_model_decides(field: str) -> None:
    async with client_for(FakeService(), IngressSettings(LimitsConfig(max_tokens=9))) as client:
        fits, over = [await client.post(PATH, json=chat_body(**{field: tokens})) for tokens in (9, 10)]
    assert (fits.status_code, over.status_code, error_of(over)["param"]) == (200, 400, field)
    assert error_of(over)["message"] == f"{field} 10 is over the limit of 9 (limits.max_tokens)"
    assert (await asked(chat_body(**{field: 2_000_000}))).sampling.max_tokens == 2_000_000

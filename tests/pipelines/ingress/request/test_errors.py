"""No input gives a 5xx, and every error has OpenAI's body: bodies that are none, headers that lie, keys, routes that are not
there."""

import hashlib
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from pydantic import ValidationError

from pipelines.ingress.request.errors import CLIENT_CLOSED_REQUEST, TABLE, answer_to
from pipelines.ingress.request.settings import IngressSettings, settings_of
from pipelines.ingress.routes.api_description import CONFLICT, POST_ERRORS, REASONS
from pipelines.ingress.tenants.auth import KeyRing
from pipelines.settings.schema.auth import SINGLE_TENANT
from pipelines.settings.schema.config import AppConfig, LimitsConfig
from stages.contract import errors
from stages.contract.errors import DeadlineExceeded, InvalidRequest, NotAuthorized, StageFailed, TriptychError
from tests.pipelines.ingress.fakes import CHAT, PAINT, FakeService, Trouble
from tests.pipelines.ingress.surface import JsonObject, chat_body, client_for, error_of, sse_events

PATH = "/v1/chat/completions"
JSON = {"content-type": "application/json"}

MINIMAL = {"models": {"clip": {"pipeline": "embed", "embedder": {"source": {"demo": "clip"}}}}}

ODD_BODIES: dict[str, bytes] = {
    "nothing": b"",
    "not JSON": b"hello",
    "half an object": b'{"model": "fake/chat", "messages": [',
    "two objects": b"{}{}",
    "an array": b"[]",
    "a number": b"5",
    "null": b"null",
    "a string": b'"x"',
    "invalid UTF-8": b'{"model": "\xff\xfe"}',
    "UTF-16": '{"model": "x"}'.encode("utf-16"),
    "a byte order mark": b"\xef\xbb\xbf{}",
    "a lone surrogate": b'{"model": "\\ud800"}',
    "a lone surrogate in a message": b'{"model": "fake/chat", "messages": [{"role": "user", "content": "\\udfff"}]}',
    "NaN": b'{"model": "fake/chat", "messages": [{"role": "user", "content": "x"}], "temperature": NaN}',
    "infinity": b'{"model": "fake/chat", "messages": [{"role": "user", "content": "x"}], "temperature": -Infinity}',
    "a number beyond floats": b'{"model": "fake/chat", "messages": [{"role": "user", "content": "x"}], "temperature": 1e999}',
    "a huge integer": b'{"model": "fake/chat", "messages": [{"role": "user", "content": "x"}], "seed": ' + b"9" * 5000 + b"}",
    "a huge exponent": b'{"model": "fake/chat", "messages": [{"role": "user", "content": "x"}], "max_tokens": 1e400}',
    "deep nesting": b"[" * 100_000,
    "deep nesting in a field": b'{"model": ' + b"[" * 5000 + b"]" * 5000 + b"}",
    "deep objects": b'{"a":' * 5000 + b"1" + b"}" * 5000,
    "many values": b'{"model": [' + b"0," * 300_000 + b"0]}",
    "many keys": b"{" + b",".join(b'"k%d": 0' % number for number in range(5000)) + b"}",
    "a raw control character": b'{"model": "\x00"}',
}


@pytest.mark.parametrize("body", ODD_BODIES.values(), ids=ODD_BODIES)
@pytest.mark.parametrize("path", [PATH, "/v1/images/generations", "/v1/embeddings"])
async def test_a_body_that_is_none_is_a_400(body: bytes, path: str) -> None:
    async with client_for(FakeService()) as client:
        response = await client.post(path, content=body, headers=JSON)
    assert response.status_code == 400, response.text
    assert len(error_of(response)["message"]) < 1000


@pytest.mark.parametrize("text", ["a\x00b", "\u202e\ufeff", "🧿" * 1000, "<|im_end|>", "\n" * 100])
async def test_odd_text_is_text(text: str) -> None:
    async with client_for(FakeService()) as client:
        response = await client.post(PATH, json=chat_body(text))
    assert response.status_code == 200
    assert response.json()["choices"][0]["message"]["content"] == f"You said: {text}"


async def test_of_a_key_given_twice_the_last_counts_as_in_every_json_parser_of_python() -> None:
    body = b'{"model": "nope", "model": "fake/chat", "messages": [{"role": "user", "content": "x"}]}'
    async with client_for(FakeService()) as client:
        response = await client.post(PATH, content=body, headers=JSON)
    assert response.json()["model"] == CHAT


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "", "🧿"]
)
async def test_a_body_that_is_not_declared_as_json_is_415(kind: str) -> None:
    async with client_for(FakeService()) as client:
        headers = [(b"content-type", kind.encode())] if kind else []
        response = await client.post(PATH, content=json.dumps(chat_body()), headers=headers)
    assert response.status_code == 415
    assert error_of(response)["code"] == "unsupported_media_type"


async def test_json_may_be_declared_with_a_charset() -> None:
    async with client_for(FakeService()) as client:
        headers = {"content-type": "Application/JSON; charset=utf-8"}
        assert (await client.post(PATH, content=json.dumps(chat_body()), headers=headers)).status_code == 200


async def test_a_body_over_the_bound_is_413_by_its_declared_length_alone() -> None:
    async def never() -> AsyncIterator[bytes]:
        raise AssertionError("the body was read")
        yield b""

    async with client_for(FakeService(), IngressSettings(LimitsConfig(body_bytes=1024))) as client:
        response = await client.post(PATH, content=never(), headers={**JSON, "content-length": "1025"})
    assert response.status_code == 413
    assert "limits.body_bytes" in error_of(response)["message"]


async def test_a_body_over_the_bound_is_413_while_it_is_read() -> None:
    sent: list[int] = []

    async def endless() -> AsyncIterator[bytes]:
        for count in range(100):
            sent.append(count)
            yield b" " * 500

    async with client_for(FakeService(), IngressSettings(LimitsConfig(body_bytes=1024))) as client:
        response = await client.post(PATH, content=endless(), headers=JSON)
    assert response.status_code == 413
    assert len(sent) < 10


@pytest.mark.parametrize("length", ["-1", "x", "9" * 400, "１２"])
async def test_a_length_that_lies_is_no_server_error(length: str) -> None:
    async with client_for(FakeService()) as client:
        response = await client.post(
            PATH,
            content=json.dumps(chat_body()),
            headers=[(b"content-type", b"application/json"), (b"content-length", length.encode())],
        )
    assert response.status_code in (200, 413)


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "1e3", "", "601", "9" * 400, "5 s", "０"])
async def test_a_timeout_that_is_not_within_bounds_is_refused(value: str) -> None:
    async with client_for(FakeService()) as client:
        response = await client.post(PATH, json=chat_body(), headers=[(b"x-request-timeout-seconds", value.encode())])
    assert response.status_code == 400
    assert error_of(response)["param"] == "x-request-timeout-seconds"
    assert "limits.max_request_s" in error_of(response)["message"]


async def test_a_timeout_becomes_the_requests_deadline() -> None:
    service = FakeService()
    async with client_for(service) as client:
        await client.post(PATH, json=chat_body(), headers={"x-request-timeout-seconds": "12.5"})
        await client.post(PATH, json=chat_body())
    given, default = [context.deadline - context.created for context in service.contexts]
    assert given == pytest.approx(12.5)
    assert default == pytest.approx(120)


async def test_a_request_id_comes_back_and_an_odd_one_is_replaced() -> None:
    async with client_for(FakeService()) as client:
        kept = await client.get("/health", headers={"x-request-id": "trace-1.2:3"})
        replaced = await client.get("/health", headers={"x-request-id": "a b"})
        failed = await client.get("/nope", headers={"x-request-id": "mine"})
    assert kept.headers["x-request-id"] == "trace-1.2:3"
    assert len(replaced.headers["x-request-id"]) == 32
    assert failed.headers["x-request-id"] == "mine"


async def test_behind_a_proxy_that_adds_the_request_id_it_is_not_there_twice() -> None:
    async with client_for(FakeService(), settings_of(AppConfig.model_validate(MINIMAL))) as client:
        assert "x-request-id" not in (await client.get("/health")).headers


async def test_two_requests_with_one_request_id_are_two_answers() -> None:
    async with client_for(FakeService()) as client:
        answers = [await client.post(PATH, json=chat_body(), headers={"x-request-id": "same"}) for _ in range(2)]
    assert len({answer.json()["id"] for answer in answers}) == 2
    assert {answer.json()["triptych"]["request_id"] for answer in answers} == {"same"}


@pytest.mark.parametrize("given", ["trace-1.2:3", "a b", None])
async def test_header_receipt_and_pipeline_have_one_request_id(given: str | None) -> None:
    service = FakeService()
    async with client_for(service) as client:
        answer = await client.post(PATH, json=chat_body(), headers={} if given is None else {"x-request-id": given})
    ids = {answer.headers["x-request-id"], answer.json()["triptych"]["request_id"], service.contexts[0].id}
    assert len(ids) == 1
    assert (ids == {given}) == (given == "trace-1.2:3")


async def test_a_failed_stage_tells_the_request_id_to_the_client_and_to_the_log(caplog: pytest.LogCaptureFixture) -> None:
    service = FakeService(trouble=Trouble(StageFailed("the llm broke")))
    async with client_for(service) as client:
        answer = await client.post(PATH, json=chat_body(), headers={"x-request-id": "mine-1"})
    assert (answer.status_code, answer.headers["x-request-id"]) == (500, "mine-1")
    assert error_of(answer)["message"] == "a stage failed on this request; the log says more under request id mine-1"
    assert "request mine-1 failed: StageFailed: the llm broke" in caplog.text


async def test_a_stage_that_fails_during_a_stream_tells_the_request_id_too(caplog: pytest.LogCaptureFixture) -> None:
    service = FakeService(trouble=Trouble(StageFailed("the llm broke"), after=2))
    async with client_for(service) as client:
        answer = await client.post(PATH, json=chat_body(stream=True), headers={"x-request-id": "mine-2"})
    error = sse_events(answer.text)[-1]["error"]
    assert error["message"] == "a stage failed on this request; the log says more under request id mine-2"
    assert "request mine-2 failed: StageFailed: the llm broke" in caplog.text


async def test_what_the_client_is_to_blame_for_is_no_failure_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    async with client_for(FakeService()) as client:
        answer = await client.post(PATH, json=chat_body(max_tokens=0), headers={"x-request-id": "mine-3"})
    assert answer.status_code == 400
    assert "mine-3" not in error_of(answer)["message"] + caplog.text


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/threads"),
        ("GET", "/v1/models/"),
        ("POST", "/v1//chat/completions"),
        ("GET", "/docs"),
    ],
)
async def test_what_is_not_there_is_404_in_openais_shape(method: str, path: str) -> None:
    async with client_for(FakeService()) as client:
        response = await client.request(method, path)
    assert response.status_code == 404
    assert error_of(response)["type"] == "invalid_request_error"


async def test_another_method_is_405_and_tells_which_are_allowed() -> None:
    async with client_for(FakeService()) as client:
        response = await client.get(PATH)
    assert response.status_code == 405
    assert response.headers["allow"] == "POST"
    assert error_of(response)["code"] == "method_not_allowed"


async def test_an_error_nobody_foresaw_is_a_500_that_tells_only_the_request_id(caplog: pytest.LogCaptureFixture) -> None:
    service = FakeService(trouble=Trouble(RuntimeError("/secret/path")))
    async with client_for(service) as client:
        response = await client.post(PATH, json=chat_body(), headers={"x-request-id": "mine"})
    assert response.status_code == 500
    assert "mine" in error_of(response)["message"]
    assert "secret" not in response.text
    assert "/secret/path" in caplog.text


def test_every_status_that_an_error_can_have_is_described() -> None:
    assert {row.status for row in TABLE.values()} - {CLIENT_CLOSED_REQUEST} == set(REASONS)
    assert set(REASONS) - set(POST_ERRORS) == {CONFLICT}


# ---- whose words ----

PAINTING: JsonObject = {"model": PAINT, "prompt": "a boat"}
CHAT_PATH, PAINT_PATH = PATH, "/v1/images/generations"


@pytest.mark.parametrize(
    ("path", "body", "below", "field"),
    [
        (CHAT_PATH, chat_body(max_tokens=9), "max_tokens", "max_tokens"),
        (CHAT_PATH, chat_body(max_completion_tokens=9), "max_tokens", "max_completion_tokens"),
        (CHAT_PATH, chat_body(max_tokens=9, max_completion_tokens=9), "max_tokens", "max_completion_tokens"),
        (CHAT_PATH, chat_body(logprobs=True, top_logprobs=2), "logprobs", "top_logprobs"),
        (CHAT_PATH, chat_body(), "token_ids", "messages"),
        (CHAT_PATH, chat_body(), "messages[0].content[1]", "messages[0].content[1]"),
        (PAINT_PATH, PAINTING, "steps", "num_inference_steps"),
        (PAINT_PATH, PAINTING | {"triptych": {"num_inference_steps": 9}}, "steps", "triptych.num_inference_steps"),
        (PAINT_PATH, PAINTING | {"scheduler": "x"}, "sampler", "scheduler"),
        (PAINT_PATH, PAINTING | {"triptych": {"guidance_scale": 2}}, "guidance_scale", "triptych.guidance_scale"),
        (PAINT_PATH, PAINTING, "width", "size"),
        (PAINT_PATH, PAINTING, "prompt", "prompt"),
    ],
)
@pytest.mark.parametrize("when", [0, 2])
async def test_an_error_from_below_names_the_field_that_this_client_sent(
    path: str, body: JsonObject, below: str, field: str, when: int
) -> None:
    service = FakeService(trouble=Trouble(InvalidRequest(f"{below} 9 is over 5; at most 5 {below}", param=below), after=when))
    async with client_for(service) as client:
        response = await client.post(path, json=body | {"stream": when > 0})
    error = sse_events(response.text)[-1]["error"] if when else error_of(response)
    assert (error["param"], error["message"]) == (field, f"{field} 9 is over 5; at most 5 {below}")


async def test_a_word_that_only_begins_like_the_field_is_left_alone() -> None:
    service = FakeService(trouble=Trouble(InvalidRequest("stepsize is no word of ours", param="steps")))
    async with client_for(service) as client:
        error = error_of(await client.post(PAINT_PATH, json=PAINTING))
    assert (error["param"], error["message"]) == ("num_inference_steps", "stepsize is no word of ours")


@pytest.mark.parametrize("when", [0, 2])
async def test_what_allows_more_time_is_told_by_the_surface_whoever_ran_out_of_it(when: int) -> None:
    service = FakeService(trouble=Trouble(DeadlineExceeded("the request's time is up: it waited for stage llm"), after=when))
    async with client_for(service) as client:
        response = await client.post(CHAT_PATH, json=chat_body(stream=when > 0))
    error = sse_events(response.text)[-1]["error"] if when else error_of(response)
    assert error["message"] == (
        "the request's time is up: it waited for stage llm; "
        "allow more with the header x-request-timeout-seconds (at most limits.max_request_s)"
    )


def test_every_error_of_the_tree_has_a_row_of_its_own_or_of_a_class_above_it() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, TriptychError)]
    assert {kind.__name__: answer_to(kind("x")).status for kind in kinds} == {
        "TriptychError": 500,
        "InvalidRequest": 400,
        "TooLarge": 413,
        "UnknownModel": 404,
        "NotAuthorized": 401,
        "Overloaded": 429,
        "QueueFull": 429,
        "Unavailable": 503,
        "DeadlineExceeded": 504,
        "Cancelled": 499,
        "ConfigurationError": 500,
        "StageFailed": 500,
        "Broken": 503,
        "Unreadable": 503,
        "InputUnavailable": 503,
        "OutOfMemory": 500,
        "ReplicaLost": 500,
    }
    assert all(row.type.endswith("_error") for row in TABLE.values())


# ---- keys ----

KEYS = {hashlib.sha256(f"key of {tenant}".encode()).hexdigest(): tenant for tenant in ("ada", "bob")}
KEYED = IngressSettings(keys=KEYS, secret=b"s3cret")


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer ", "Bearer wrong", "Basic a2V5", "key of ada", "Bearer \xff"])
async def test_without_a_known_key_everything_but_health_is_401(header: str | None) -> None:
    service = FakeService()
    headers = [] if header is None else [(b"authorization", header.encode("latin-1"))]
    async with client_for(service, KEYED) as client:
        for method, path in (("POST", PATH), ("GET", "/v1/models"), ("GET", f"/v1/models/{CHAT}"), ("GET", "/metrics")):
            response = await client.request(method, path, headers=headers)
            assert response.status_code == 401, (method, path)
            assert response.headers["www-authenticate"] == "Bearer"
            assert error_of(response)["code"] == "invalid_api_key"
        assert (await client.get("/health")).status_code == 200
    assert service.jobs == []


async def test_tenant_and_salt_come_from_the_key_alone() -> None:
    service = FakeService()
    async with client_for(service, KEYED) as client:
        for tenant in ("ada", "bob", "ada"):
            headers = {"authorization": f"Bearer key of {tenant}"}
            assert (await client.post(PATH, json=chat_body(user="bob"), headers=headers)).status_code == 200
    assert [context.tenant for context in service.contexts] == ["ada", "bob", "ada"]
    salts = [context.salt for context in service.contexts]
    assert salts[0] == salts[2] != salts[1]
    assert KeyRing(KEYS, b"another").identify("Bearer key of ada").salt != salts[0]


async def test_one_tenants_prompts_are_not_cached_for_another_and_receipts_tell_no_cache_outcomes() -> None:
    async with client_for(FakeService(), KEYED) as client:
        bodies: list[JsonObject] = [
            (await client.post(PATH, json=chat_body("a b c"), headers={"authorization": f"Bearer key of {tenant}"})).json()
            for tenant in ("ada", "bob")
        ]
    assert bodies[1]["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
    assert all("cache" not in stage and "bytes_moved" not in stage for stage in bodies[0]["triptych"]["stages"])


async def test_a_tenant_cannot_put_itself_before_others() -> None:
    headers = {"authorization": "Bearer key of ada"}
    async with client_for(FakeService(), KEYED) as client:
        urgent = await client.post(PATH, json=chat_body(triptych={"priority": -1}), headers=headers)
        patient = await client.post(PATH, json=chat_body(triptych={"priority": 1}), headers=headers)
    assert (urgent.status_code, error_of(urgent)["param"]) == (400, "triptych.priority")
    assert patient.status_code == 200


async def test_a_single_tenant_may_hurry() -> None:
    service = FakeService()
    async with client_for(service) as client:
        await client.post(PATH, json=chat_body(triptych={"priority": -1}))
    assert service.contexts[0].priority == -1


def test_a_key_ring_without_keys_lets_everyone_in_as_one_tenant() -> None:
    assert KeyRing().identify(None) == KeyRing().identify("Bearer anything")
    with pytest.raises(NotAuthorized):
        KeyRing({"0" * 64: "ada"}).identify(None)


def test_a_tenant_sees_all_where_it_is_the_only_one_or_an_operator() -> None:
    def settings(*tenants: str, **more: Any) -> IngressSettings:
        keys = [{"tenant": tenant, "sha256": f"{number:064x}"} for number, tenant in enumerate(tenants)]
        secret = {"secret_env": "PATH"} if len(set(tenants)) > 1 else {}  # any variable that is set
        return settings_of(AppConfig.model_validate({**MINIMAL, "auth": {"keys": keys, **secret, **more}}))

    assert settings().sees_all(SINGLE_TENANT)
    assert settings("ada", "ada").sees_all("ada")
    assert not settings("ada", "bob").sees_all("ada")
    assert settings("ada", "bob", operators=["bob"]).sees_all("bob")
    assert not settings("ada", "bob", operators=["bob"]).sees_all("ada")
    assert settings("ada", "bob").keys == {f"{0:064x}": "ada", f"{1:064x}": "bob"}
    with pytest.raises(ValidationError, match="no key is of tenant eve"):
        settings("ada", operators=["eve"])

"""What each of several tenants is shown: its own, and nothing of what the others do. And what is shown without a key."""

import hashlib
from dataclasses import replace
from typing import Any

import httpx
import pytest

from pipelines.ingress.request.settings import IngressSettings, settings_of
from pipelines.settings.config_file import parse
from stages.contract.errors import ConfigurationError
from tests.pipelines.ingress.fakes import CHAT, EMBED, PAINT, FakeService
from tests.pipelines.ingress.surface import JsonObject, chat_body, client_for, error_of, sse_events

TENANTS = ("ada", "bob", "root")
SEVERAL = IngressSettings(
    keys={hashlib.sha256(tenant.encode()).hexdigest(): tenant for tenant in TENANTS},
    secret=b"a secret",
    operators=frozenset({"root"}),
)
OF_OTHERS = ("replica", "batch_size", "cache", "bytes_moved", "cache_s", "pool", "expected_s", "runner_up", "reasons")


def key(tenant: str) -> dict[str, str]:
    return {"authorization": f"Bearer {tenant}"}


async def chat(client: httpx.AsyncClient, tenant: str, **fields: Any) -> httpx.Response:
    return await client.post("/v1/chat/completions", json=chat_body(**fields), headers=key(tenant))


def counted(page: str, route: str) -> dict[str, float]:
    """Status -> requests."""
    lines = [line for line in page.splitlines() if line.startswith("triptych_http_requests_total") and f'"{route}"' in line]
    return {line.partition('status="')[2][:3]: float(line.rpartition(" ")[2]) for line in lines}


async def test_a_tenant_sees_its_own_counters_and_an_operator_everybodys() -> None:
    async with client_for(FakeService(), SEVERAL) as client:
        for tenant in ("ada", "ada", "bob"):
            await chat(client, tenant)
        await chat(client, "bob", n=0)
        pages = {tenant: (await client.get("/metrics", headers=key(tenant))).text for tenant in TENANTS}
    route = "/v1/chat/completions"
    assert {tenant: counted(page, route) for tenant, page in pages.items()} == {
        "ada": {"200": 2},
        "bob": {"200": 1, "400": 1},
        "root": {"200": 3, "400": 1},
    }
    assert 'triptych_http_request_seconds_count{route="/v1/chat/completions"} 2.0' in pages["ada"]
    for tenant in ("ada", "bob"):
        for word in ("triptych_stage", "replica", "running", *(other for other in TENANTS if other != tenant)):
            assert word not in pages[tenant]
    assert "triptych_stage_queued" in pages["root"]


async def test_a_tenant_that_has_asked_nothing_sees_no_counts() -> None:
    async with client_for(FakeService(), SEVERAL) as client:
        await chat(client, "ada")
        page = (await client.get("/metrics", headers=key("bob"))).text
    assert counted(page, "/v1/chat/completions") == {}


async def test_what_nobody_signed_is_nobodys_and_no_tenants_count() -> None:
    async with client_for(FakeService(), SEVERAL) as client:
        assert (await client.post("/v1/chat/completions", json=chat_body())).status_code == 401
        pages = {tenant: (await client.get("/metrics", headers=key(tenant))).text for tenant in ("ada", "root")}
    assert counted(pages["ada"], "/v1/chat/completions") == {}
    assert counted(pages["root"], "/v1/chat/completions") == {"401": 1}


async def receipts(client: httpx.AsyncClient, tenant: str) -> list[JsonObject]:
    """Of a chat, a stream of a chat, a painting and a stream of a painting."""
    painting = {"model": PAINT, "prompt": "a boat"}
    whole, stream = await chat(client, tenant), await chat(client, tenant, stream=True)
    painted = await client.post("/v1/images/generations", json=painting, headers=key(tenant))
    painted_stream = await client.post("/v1/images/generations", json=painting | {"stream": True}, headers=key(tenant))
    return [
        whole.json()["triptych"],
        next(event["triptych"] for event in sse_events(stream.text) if "triptych" in event),
        painted.json()["triptych"],
        sse_events(painted_stream.text)[-1]["triptych"]["receipt"],
    ]


async def test_a_receipt_tells_nothing_of_the_requests_beside_it() -> None:
    async with client_for(FakeService(), SEVERAL) as client:
        for receipt in await receipts(client, "ada"):
            assert receipt["stages"]
            for stage in receipt["stages"]:
                assert not [field for field in OF_OTHERS if field in stage]
                assert {"stage", "queue_s", "run_s", "device_s"} <= set(stage)
        for receipt in await receipts(client, "root"):
            assert all(set(OF_OTHERS) <= set(stage) for stage in receipt["stages"])


async def test_two_tenants_may_give_their_requests_the_same_id() -> None:
    service = FakeService()
    async with client_for(service, SEVERAL) as client:
        answers = [
            await client.post("/v1/chat/completions", json=chat_body(), headers=key(tenant) | {"x-request-id": "same"})
            for tenant in ("ada", "bob")
        ]
    assert [answer.json()["triptych"]["request_id"] for answer in answers] == ["same", "same"]
    assert [answer.json()["usage"]["prompt_tokens_details"]["cached_tokens"] for answer in answers] == [0, 0]
    assert len({context.salt for context in service.contexts}) == 2


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/fake-clip", "/metrics", "/openapi.json"])
@pytest.mark.parametrize("headers", [{}, key("eve")], ids=["no key", "an unknown key"])
async def test_what_is_served_is_told_to_those_with_a_key(path: str, headers: dict[str, str]) -> None:
    async with client_for(FakeService(), SEVERAL) as client:
        answer = await client.get(path, headers=headers)
        assert (await client.get(path, headers=key("ada"))).status_code == 200
    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
    assert error_of(answer)["code"] == "invalid_api_key"


async def test_readiness_is_told_to_everybody_and_what_is_missing_to_those_with_a_key() -> None:
    async with client_for(FakeService(stages_ready=False), SEVERAL) as client:
        anyone, unknown, known = [await client.get("/ready", headers=given) for given in ({}, key("eve"), key("ada"))]
    assert [answer.status_code for answer in (anyone, unknown, known)] == [503, 503, 503]
    assert anyone.json() == unknown.json() == {"ready": False}
    assert known.json()["missing"] == [f"{PAINT}.denoiser"]


async def test_nothing_that_needs_no_key_names_a_model_or_a_stage() -> None:
    service = FakeService(stages_ready=False)
    names = [name for card in service.models() for name in (card.id, *card.stages)]
    async with client_for(service, SEVERAL) as client:
        answers = [
            await client.get(path)
            for path in ("/", "/health", "/ready", "/v1/models", "/v1/images/files/x", "/no/such", "/metrics")
        ]
        answers.append(await client.post("/v1/chat/completions", json={"model": "nope", "messages": []}))
    assert not [name for name in names for answer in answers if name in answer.text]


PARTED = replace(SEVERAL, models={"ada": frozenset({PAINT}), "bob": frozenset({CHAT, EMBED})})
BODIES: dict[str, tuple[str, JsonObject]] = {
    CHAT: ("/v1/chat/completions", chat_body()),
    PAINT: ("/v1/images/generations", {"model": PAINT, "prompt": "a boat"}),
    EMBED: ("/v1/embeddings", {"model": EMBED, "input": "a"}),
}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", {"prompt": "a"}),
        ("/v1/responses", {"input": "a"}),
        ("/tokenize", {"prompt": "a"}),
        ("/detokenize", {"tokens": []}),
    ],
)
async def test_whatever_a_model_is_asked_it_is_the_tenants_own(path: str, body: JsonObject) -> None:
    async with client_for(FakeService(), PARTED) as client:
        statuses = {
            tenant: (await client.post(path, json=body | {"model": CHAT}, headers=key(tenant))).status_code
            for tenant in TENANTS
        }
        hidden = await client.post(path, json=body | {"model": PAINT}, headers=key("bob"))
        unknown = await client.post(path, json=body | {"model": "nope"}, headers=key("ada"))
        nobody = await client.post(path, json=body | {"model": CHAT})
    assert statuses == {"ada": 404, "bob": 200, "root": 200}
    assert (hidden.status_code, nobody.status_code) == (404, 401)
    assert CHAT not in unknown.text


async def test_of_a_models_tokenizer_only_who_may_ask_it_is_told() -> None:
    asked = f"/tokenizer_info?model={CHAT}"
    async with client_for(FakeService(), PARTED) as client:
        statuses = {tenant: (await client.get(asked, headers=key(tenant))).status_code for tenant in TENANTS}
        nobody = await client.get(asked)
    assert statuses == {"ada": 404, "bob": 200, "root": 200}
    assert nobody.status_code == 401


async def test_a_painter_that_is_not_the_tenants_paints_nothing_for_its_models() -> None:
    asked = {"model": CHAT, "input": "a", "tools": [{"type": "image_generation", "model": PAINT}]}
    async with client_for(FakeService(), PARTED) as client:
        named = await client.post("/v1/responses", json=asked, headers=key("bob"))
        unnamed = await client.post(
            "/v1/responses", json=asked | {"tools": [{"type": "image_generation"}]}, headers=key("bob")
        )
    assert (named.status_code, unnamed.status_code) == (404, 400)
    assert "text_to_image" not in unnamed.text


async def test_a_tenant_sees_and_asks_its_own_models_only() -> None:
    allowed = {"ada": {PAINT}, "bob": {CHAT, EMBED}, "root": {CHAT, PAINT, EMBED}}
    async with client_for(FakeService(), PARTED) as client:
        for tenant, own in allowed.items():
            listed = (await client.get("/v1/models", headers=key(tenant))).json()["data"]
            assert {entry["id"] for entry in listed} == own
            assert all(entry["triptych"]["stages"] for entry in listed)
            for model, (path, body) in BODIES.items():
                answers = [
                    await client.post(path, json=body, headers=key(tenant)),
                    await client.get(f"/v1/models/{model}", headers=key(tenant)),
                ]
                assert [answer.status_code for answer in answers] == [200 if model in own else 404] * 2


async def test_nothing_that_a_tenant_is_told_names_a_model_that_is_not_its_own() -> None:
    """Lists, the description, what is missing, and the errors that list what there is."""
    others = {"ada": (CHAT, EMBED), "bob": (PAINT,)}
    wrong = [(path, {**body, "model": "nope"}) for path, body in BODIES.values()]
    wrong += [(path, {**body, "model": model}) for path, body in BODIES.values() for model in BODIES if body["model"] != model]
    wrong += [(path, {name: value for name, value in body.items() if name != "model"}) for path, body in BODIES.values()]
    async with client_for(FakeService(stages_ready=False), PARTED) as client:
        for tenant, hidden in others.items():
            answers = [
                await client.get(path, headers=key(tenant))
                for path in ("/v1/models", "/v1/models/nope", "/ready", "/metrics", "/openapi.json")
            ]
            answers += [
                await client.post(path, json=body, headers=key(tenant))
                for path, body in wrong
                if body.get("model") not in hidden
            ]
            assert len([answer for answer in answers if answer.status_code in (400, 404)]) > 7
            assert not [(name, answer.text) for name in hidden for answer in answers if name in answer.text]


def test_models_are_given_to_tenants_with_keys_and_must_be_served() -> None:
    clip = {"clip": {"pipeline": "embed", "embedder": {"source": {"demo": "clip"}}}}
    keys = [{"tenant": "ada", "sha256": "0" * 64}]
    config = parse({"models": clip, "auth": {"keys": keys, "models": {"ada": ["clip"]}}})
    assert settings_of(config).models == {"ada": frozenset({"clip"})}
    for models, told in (
        ({"eve": ["clip"]}, "models: no key is of tenant eve"),
        ({"ada": ["x"]}, "auth.models.ada: x is not one of clip"),
    ):
        with pytest.raises(ConfigurationError, match=told):
            parse({"models": clip, "auth": {"keys": keys, "models": models}})

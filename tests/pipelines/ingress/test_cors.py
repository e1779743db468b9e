"""Pages of other origins: those that the configuration names may ask and read, and no others."""

import hashlib

import httpx
import pytest

from pipelines.ingress.request.settings import IngressSettings
from pipelines.settings.schema.config import AppConfig
from tests.pipelines.ingress.fakes import CHAT, FakeService
from tests.pipelines.ingress.surface import chat_body, client_for

PAGE, OTHER = "https://app.example.com", "https://evil.example"
KEY = "a key"
KEYS = {hashlib.sha256(KEY.encode()).hexdigest(): "ada"}
PATH = "/v1/chat/completions"


async def preflight(client: httpx.AsyncClient, origin: str) -> httpx.Response:
    asked = {
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,content-type,x-stainless-os",
    }
    return await client.options(PATH, headers={"origin": origin, "sec-fetch-site": "cross-site", **asked})


@pytest.mark.parametrize("keys", [KEYS, {}])
async def test_a_page_of_an_origin_that_is_named_may_ask_and_read(keys: dict[str, str]) -> None:
    async with client_for(FakeService(), IngressSettings(keys=keys, cors_origins=frozenset({PAGE}))) as client:
        allowed = await preflight(client, PAGE)
        assert allowed.status_code == 200
        assert allowed.headers["access-control-allow-origin"] == PAGE
        assert "x-stainless-os" in allowed.headers["access-control-allow-headers"]
        headers = {"origin": PAGE, "sec-fetch-site": "cross-site", "authorization": f"Bearer {KEY}"}
        answer = await client.post(PATH, json=chat_body(), headers=headers)
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-origin"] == PAGE
        assert "x-request-id" in answer.headers["access-control-expose-headers"]
        refused = await client.post(PATH, json={"model": CHAT}, headers=headers)
        assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (400, PAGE)


@pytest.mark.parametrize("keys", [KEYS, {}])
@pytest.mark.parametrize("origins", [frozenset({PAGE}), frozenset[str]()])
async def test_a_page_of_another_origin_reads_nothing(keys: dict[str, str], origins: frozenset[str]) -> None:
    service = FakeService()
    async with client_for(service, IngressSettings(keys=keys, cors_origins=origins)) as client:
        assert "access-control-allow-origin" not in (await preflight(client, OTHER)).headers
        headers = {"origin": OTHER, "sec-fetch-site": "cross-site", "authorization": f"Bearer {KEY}"}
        answer = await client.post(PATH, json=chat_body(), headers=headers)
    assert "access-control-allow-origin" not in answer.headers
    if not keys:
        assert answer.status_code == 403
        assert service.jobs == []


async def test_with_keys_any_origin_may_be_allowed() -> None:
    async with client_for(FakeService(), IngressSettings(keys=KEYS, cors_origins=frozenset({"*"}))) as client:
        answer = await client.post(PATH, json=chat_body(), headers={"origin": OTHER, "authorization": f"Bearer {KEY}"})
        assert answer.headers["access-control-allow-origin"] == "*"
        assert "access-control-allow-credentials" not in answer.headers


async def test_a_name_that_comes_to_mean_this_machine_is_refused_whatever_its_origin() -> None:
    async with client_for(FakeService(), IngressSettings(cors_origins=frozenset({PAGE}))) as client:
        answer = await client.post(PATH, json=chat_body(), headers={"origin": PAGE, "host": "evil.example"})
    assert answer.status_code == 403


def test_any_origin_without_keys_is_refused_by_the_configuration() -> None:
    models = {"m": {"pipeline": "embed", "embedder": {"source": {"demo": "clip"}}}}
    places = {"deployments": {"clip": {"stages": ["m.embedder"]}}}
    with pytest.raises(ValueError, match=r'ingress\.cors_origins: "\*" without auth\.keys'):
        AppConfig.model_validate({"models": models, **places, "ingress": {"cors_origins": ["*"]}})
    AppConfig.model_validate({"models": models, **places, "ingress": {"cors_origins": [PAGE]}})

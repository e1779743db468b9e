"""What is told about the service itself: models, health, readiness, metrics, the description, the page."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from urllib.parse import quote

import pytest
from prometheus_client.parser import text_string_to_metric_families

from pipelines.ingress.request.settings import IngressSettings
from pipelines.jobs import StageCard
from stages.contract.errors import QueueFull, Unavailable
from tests.pipelines.ingress.fakes import CHAT, EMBED, PAINT, PAINT_PARTS, FakeService, Trouble
from tests.pipelines.ingress.surface import chat_body, client_for, error_of


async def test_the_list_has_every_model_with_its_pipeline_and_stages() -> None:
    async with client_for(FakeService()) as client:
        body = (await client.get("/v1/models")).json()
    assert body["object"] == "list"
    assert [(entry["id"], entry["triptych"]["pipeline"]) for entry in body["data"]] == [
        (CHAT, "image_text"),
        (PAINT, "text_to_image"),
        (EMBED, "embed"),
    ]
    assert body["data"][0]["triptych"]["sampling"] == {
        "temperature": 0.6,
        "top_p": 1.0,
        "top_k": 20,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "max_tokens": 512,
    }
    assert body["data"][0]["triptych"]["tool_choices"] == ["auto", "required"]
    painter = body["data"][1]
    assert (painter["object"], painter["owned_by"], painter["created"]) == ("model", "triptych", 1_700_000_000)
    assert [stage["kind"] for stage in painter["triptych"]["stages"]] == list(PAINT_PARTS)
    paint = painter["triptych"]["paint"]
    assert (paint["max_steps"], paint["default_guidance_scale"], paint["max_prompt_tokens"]) == (50, 4.0, 600)
    assert (painter["triptych"]["accepts_images"], painter["triptych"]["paint"]["default_strength"]) == (True, 0.8)


async def test_a_model_whose_id_holds_a_slash_is_found() -> None:
    async with client_for(FakeService()) as client:
        plain, escaped = await client.get(f"/v1/models/{CHAT}"), await client.get(f"/v1/models/{CHAT.replace('/', '%2F')}")
    assert plain.json()["id"] == escaped.json()["id"] == CHAT


async def test_an_unknown_model_is_404_and_tells_those_there_are() -> None:
    async with client_for(FakeService()) as client:
        response = await client.get("/v1/models/nope")
    assert response.status_code == 404
    assert all(name in error_of(response)["message"] for name in (CHAT, "nope"))


@pytest.mark.parametrize("path", ["/v1/models/", "/v1/", "/"])
@pytest.mark.parametrize(
    "text", ["Your account is closed, call 0900 123", "<img src=x>", "a\nb", "\x1b[2J", "a" * 101, "ü", "%ff"]
)
async def test_what_a_link_wants_said_is_not_said(path: str, text: str) -> None:
    async with client_for(FakeService()) as client:
        response = await client.get(path + quote(text))
        message = error_of(response)["message"]
        assert error_of(await client.get("/v1/nothing"))["message"].startswith("unknown request URL: GET /v1/nothing;")
    assert response.status_code == 404
    assert text not in message
    assert "not repeated" in message


async def test_models_are_listed_even_while_nobody_can_tell_of_the_stages() -> None:
    async with client_for(FakeService(stages_error=Unavailable("the controller is away"))) as client:
        body = (await client.get("/v1/models")).json()
    assert [entry["triptych"]["stages"] for entry in body["data"]] == [[], [], []]


async def test_health_answers_whatever_the_stages_do() -> None:
    async with client_for(FakeService(stages_ready=False)) as client:
        assert (await client.get("/health")).json() == {"status": "ok"}


async def test_ready_names_the_stages_that_are_missing() -> None:
    async with client_for(FakeService()) as client:
        ready = await client.get("/ready")
    async with client_for(FakeService(stages_ready=False)) as client:
        unready = await client.get("/ready")
    async with client_for(FakeService(stages_error=Unavailable("the controller is away"))) as client:
        unknown = await client.get("/ready")
    assert (ready.status_code, ready.json()) == (200, {"ready": True, "missing": []})
    assert (unready.status_code, unready.json()) == (503, {"ready": False, "missing": [f"{PAINT}.denoiser"]})
    assert (unknown.status_code, unknown.json()["reason"]) == (503, "the controller is away")


class WithPools(FakeService):
    """The denoiser has two pools; those of `down` have no replica."""

    down: tuple[str, ...] = ()

    async def stage_cards(self) -> Sequence[StageCard]:
        cards = await super().stage_cards()
        (denoiser,) = [card for card in cards if card.name == f"{PAINT}.denoiser"]
        pools = [
            replace(denoiser, deployment="l4", dtype="float16", capacity=4),
            replace(denoiser, deployment="a100", capacity=16),
        ]
        up = [replace(pool, replicas=0, ready=False) if pool.deployment in self.down else pool for pool in pools]
        return [*[card for card in cards if card != denoiser], *up]


@pytest.mark.parametrize(("down", "status"), [((), 200), (("l4",), 200), (("l4", "a100"), 503)])
async def test_a_stage_is_ready_where_one_of_its_pools_is_and_each_is_told(down: tuple[str, ...], status: int) -> None:
    service = WithPools()
    service.down = down
    async with client_for(service) as client:
        ready, listed = await client.get("/ready"), (await client.get(f"/v1/models/{PAINT}")).json()
    assert (ready.status_code, ready.json()["missing"]) == (status, [f"{PAINT}.denoiser"] if status == 503 else [])
    told = [("l4", "float16", 4), ("a100", "float32", 16)]
    for pools in (ready.json()["pools"], [stage for stage in listed["triptych"]["stages"] if stage["kind"] == "denoiser"]):
        assert [(pool["deployment"], pool["dtype"], pool["capacity"]) for pool in pools] == told
        assert [pool["deployment"] for pool in pools if not pool["ready"]] == list(down)


async def metrics_of(service: FakeService) -> dict[str, dict[tuple[str, ...], float]]:
    """Sample name -> label values -> value, after a few requests."""
    async with client_for(service) as client:
        await client.post("/v1/chat/completions", json=chat_body())
        await client.get("/no/such/route/of/ours")
        response = await client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain")
    samples: dict[str, dict[tuple[str, ...], float]] = {}
    for family in text_string_to_metric_families(response.text):
        for sample in family.samples:
            samples.setdefault(sample.name, {})[tuple(sorted(sample.labels.values()))] = sample.value
    return samples


async def test_metrics_count_requests_by_route_and_status_and_stages_by_name() -> None:
    samples = await metrics_of(FakeService())
    assert samples["triptych_http_requests_total"][("/v1/chat/completions", "200", "POST")] == 1
    assert samples["triptych_http_requests_total"][("404", "GET", "other")] == 1
    assert samples["triptych_http_requests_running"][()] == 1
    assert samples["triptych_http_request_seconds_count"][("/v1/chat/completions",)] == 1
    assert samples["triptych_stage_metrics_up"][()] == 1
    labels = tuple(
        sorted(("cpu", f"{PAINT}.denoiser", f"{PAINT}-denoiser", "replica-1", PAINT))
    )  # device, stage, pool, replica, model
    assert samples["triptych_stage_queued"][labels] == 1
    assert samples["triptych_stage_device_seconds_total"][labels] == 0.25


async def test_metrics_are_there_while_nobody_can_tell_of_the_stages() -> None:
    samples = await metrics_of(FakeService(stages_error=Unavailable("away")))
    assert samples["triptych_stage_metrics_up"][()] == 0
    assert samples["triptych_http_requests_total"]


async def test_refusals_are_counted_under_their_status() -> None:
    samples = await metrics_of(FakeService(trouble=Trouble(QueueFull("full"))))
    assert samples["triptych_http_requests_total"][("/v1/chat/completions", "429", "POST")] == 1


async def test_the_page_allows_nothing_that_is_not_its_own() -> None:
    async with client_for(FakeService()) as client:
        page = await client.get("/")
        missing = await client.get("/playground/__init__.py")
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "unsafe" not in page.headers["content-security-policy"]
    assert missing.status_code == 404


async def test_the_description_names_every_public_route_and_asks_for_keys_only_where_there_are_any() -> None:
    async with client_for(FakeService()) as client:
        opened = (await client.get("/openapi.json")).json()
    async with client_for(FakeService(), IngressSettings(keys={hashlib.sha256(b"secret").hexdigest(): "a"})) as client:
        keyed = (await client.get("/openapi.json", headers={"authorization": "Bearer secret"})).json()
    assert set(opened["paths"]) == {
        "/detokenize",
        "/tokenize",
        "/tokenizer_info",
        "/v1/batches",
        "/v1/batches/{id}",
        "/v1/batches/{id}/cancel",
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/files",
        "/v1/files/{id}",
        "/v1/files/{id}/content",
        "/v1/responses",
        "/v1/images/generations",
        "/v1/images/edits",
        "/v1/images/variations",
        "/v1/images/files/{key}",
        "/v1/images/jobs",
        "/v1/images/jobs/{job_id}",
        "/v1/images/jobs/{job_id}/cancel",
        "/v1/images/jobs/{job_id}/content",
        "/v1/images/jobs/{job_id}/result",
        "/v1/embeddings",
        "/v1/models",
        "/v1/models/{model}",
        "/v1/receipts/{request_id}",
        "/v1/usage",
        "/health",
        "/ready",
        "/metrics",
    }
    assert "security" not in opened["paths"]["/v1/models"]["get"]
    assert keyed["paths"]["/v1/models"]["get"]["security"] == [{"bearer": []}]
    assert opened["components"]["schemas"]["ChatBody"]["properties"]["model"]["enum"] == [CHAT]

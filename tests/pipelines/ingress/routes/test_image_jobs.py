"""/v1/images/jobs: submitted, asked after, called off and fetched, by connections that each are short."""

import asyncio
import base64
import hashlib
import io
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from cache.store import MemoryStore
from pipelines.context import RequestContext
from pipelines.ingress.app import Kept, create_app
from pipelines.ingress.request.offline import LOWEST
from pipelines.ingress.request.settings import IngressSettings
from pipelines.ingress.routes.painting.job_request import JobRequest
from pipelines.jobs import GivenImage, ImagePart, PaintJob, Trunk
from pipelines.settings.schema.http import KeptConfig
from stages.contract.errors import QueueFull, StageFailed
from tests.pipelines.ingress.fakes import CHAT, PAINT, Events, FakeService, Gate, Trouble, gradient
from tests.pipelines.ingress.kept.workers import Clock, SharedStore
from tests.pipelines.ingress.surface import JsonObject, client_of, data_url, error_of, png
from tests.pipelines.ingress.two_versions import TwoVersions, next_of

PATH = "/v1/images/jobs"
WAIT_S = 20
KEYS = {hashlib.sha256(name.encode()).hexdigest(): name for name in ("ada", "bob")}
ADA, BOB = ({"authorization": f"Bearer {name}"} for name in ("ada", "bob"))


@asynccontextmanager
async def process(
    service: FakeService, store: MemoryStore | None = None, settings: IngressSettings | None = None
) -> AsyncIterator[httpx.AsyncClient]:
    """An HTTP process; what it keeps is in `store`, or in its own memory."""
    settings = settings or IngressSettings()
    kept = Kept.new(settings, store=store)
    async with client_of(create_app(service, settings, kept)) as client:
        yield client
    await kept.close()


def paint(**fields: Any) -> JsonObject:
    return {"model": PAINT, "prompt": "a boat", **fields}


async def submitted(
    client: httpx.AsyncClient, body: JsonObject | None = None, headers: Mapping[str, str] | None = None
) -> JsonObject:
    response = await client.post(PATH, json=body or paint(), headers=headers)
    assert response.status_code == 202, response.text
    assert response.headers["location"].endswith(f"{PATH}/{response.json()['id']}")
    return dict(response.json())


async def until(client: httpx.AsyncClient, id: str, *statuses: str) -> JsonObject:
    async with asyncio.timeout(WAIT_S):
        while True:
            response = await client.get(f"{PATH}/{id}")
            assert response.status_code == 200, response.text
            if response.json()["status"] in statuses:
                return dict(response.json())
            await asyncio.sleep(0.005)


async def test_a_job_is_submitted_told_of_and_fetched() -> None:
    service = FakeService()
    async with process(service) as client:
        told = await submitted(client, paint(n=2, seed=5, size="24x16", quality="high"))
        assert (told["status"], told["progress"], told["eta_s"], told["images"]) == ("queued", 0, 3.0, [])
        assert (told["kind"], told["model"], told["object"]) == ("generation", PAINT, "image.job")
        done = await until(client, told["id"], "completed")
        assert (done["progress"], done["eta_s"], done["steps"]) == (100, None, {"done": 16, "total": 16})
        assert [(image["index"], image["seed"], image["size"]) for image in done["images"]] == [
            (0, 5, "24x16"),
            (1, 6, "24x16"),
        ]
        for image in done["images"]:
            response = await client.get(image["url"])
            assert response.headers["content-type"] == "image/png"
            expected = gradient(PaintJob("a boat", width=24, height=16), image["seed"], 1.0)
            np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(response.content))), expected)
        result = (await client.get(f"{PATH}/{told['id']}/result")).json()
        assert [base64.b64decode(entry["b64_json"])[:4] for entry in result["data"]] == [b"\x89PNG"] * 2
        assert result["triptych"]["request_id"] == told["id"]
        assert [note["field"] for note in result["triptych"]["notes"]] == ["quality"]
        assert (await client.get(f"/v1/receipts/{told['id']}")).status_code == 200


async def test_progress_and_when_it_will_be_done_are_told_while_it_runs() -> None:
    service = FakeService(gate=Gate(after=4))
    assert service.gate is not None
    async with process(service) as client:
        told = await submitted(client)
        await asyncio.wait_for(service.gate.reached.wait(), WAIT_S)
        running = await until(client, told["id"], "in_progress")
        assert (running["steps"], running["progress"]) == ({"done": 4, "total": 8}, 50)
        assert running["eta_s"] is not None
        content = await client.get(f"{PATH}/{told['id']}/content")
        assert (content.status_code, error_of(content)["code"]) == (409, "not_completed")
        service.gate.open.set()
        assert (await until(client, told["id"], "completed"))["progress"] == 100


@pytest.mark.parametrize("as_form", [True, False])
async def test_an_edit_is_a_job_too_as_a_form_and_as_json(as_form: bool) -> None:
    service = FakeService()
    image, mask = png(24, 16), png(24, 16, "blue")
    async with process(service) as client:
        if as_form:
            files = [("image", ("a.png", image, "image/png")), ("mask", ("m.png", mask, "image/png"))]
            response = await client.post(PATH, data={"prompt": "a boat", "strength": "0.5", "seed": "3"}, files=files)
        else:
            given = {"images": [{"image_url": data_url(image)}], "mask": {"image_url": data_url(mask)}}
            response = await client.post(PATH, json={"prompt": "a boat", "strength": 0.5, "seed": 3, **given})
        assert response.status_code == 202, response.text
        assert response.json()["kind"] == "edit"
        await until(client, response.json()["id"], "completed")
    (job,) = service.jobs
    params = ("image", "mask") if as_form else ("images[0].image_url", "mask.image_url")
    parts = [ImagePart(data, 24, 16, param) for data, param in zip((image, mask), params, strict=True)]
    assert job == PaintJob("a boat", seed=3, init=GivenImage(parts[0], 0.5, parts[1]))


async def test_what_can_be_refused_is_refused_when_it_is_submitted() -> None:
    async with process(FakeService()) as client:
        for body, param in (
            (paint(prompt="impossible"), "prompt"),
            (paint(stream=True), "stream"),
            (paint(partial_images=2), "partial_images"),
            (paint(size="64"), "size"),
            (paint(strength=0.5), "images"),
            (paint(mask={"image_url": data_url(png())}), "images"),
            (paint(images=[{"image_url": "data:,"}]), "images[0].image_url"),
            (paint(images=[{"image_url": data_url(png())}] * 2), "images"),
            (paint(images=[{"file_id": "file-1"}]), "images[0]"),
            (paint(model=CHAT), "model"),
        ):
            response = await client.post(PATH, json=body)
            assert (response.status_code, error_of(response)["param"]) == (400, param), response.text
        assert (await client.get(PATH)).json()["data"] == []


async def test_a_failed_job_says_why_and_what_the_server_is_to_blame_for_is_not_told() -> None:
    service = FakeService(trouble=Trouble(StageFailed("a secret path"), after=2))
    async with process(service) as client:
        failed = await until(client, (await submitted(client))["id"], "failed")
    assert failed["error"]["code"] == "stage_failed"
    assert "secret" not in failed["error"]["message"]
    assert failed["id"] in failed["error"]["message"]


async def test_a_job_that_finds_no_room_waits_instead_of_failing() -> None:
    service = FakeService(trouble=Trouble(QueueFull("full", retry_after_s=0.01)))
    async with process(service) as client:
        told = await submitted(client)
        async with asyncio.timeout(WAIT_S):
            while len(service.jobs) < 3:  # noqa: ASYNC110 - it tells nobody how often it was asked
                await asyncio.sleep(0.005)
        service.trouble = None
        assert (await until(client, told["id"], "completed"))["tries"] == 1


class OneAtATime(FakeService):
    """Has room for no second painting beside the first."""

    @asynccontextmanager
    async def work(self, job: Any, context: RequestContext) -> AsyncIterator[Events]:
        if self.running:
            self.num_refused = getattr(self, "num_refused", 0) + 1
            raise QueueFull("full", retry_after_s=0.001)
        async with super().work(job, context) as events:
            yield events


async def test_an_image_that_finds_no_room_waits_and_those_that_are_begun_go_on() -> None:
    service = OneAtATime()
    async with process(service) as client:
        done = await until(client, (await submitted(client, paint(n=3, seed=5)))["id"], "completed")
    assert [(image["index"], image["seed"]) for image in done["images"]] == [(0, 5), (1, 6), (2, 7)]
    assert service.num_refused > 0
    painted = [job.first for job in service.jobs if isinstance(job, PaintJob)]
    assert sorted(painted) == [0, 1, 2]  # none was begun twice


async def test_a_job_goes_behind_all_that_somebody_waits_for() -> None:
    service = FakeService()
    async with process(service) as client:
        for asked in ({}, {"triptych": {"priority": 3}}):
            await until(client, (await submitted(client, paint(**asked)))["id"], "completed")
    assert [context.priority for context in service.contexts] == [LOWEST, 3]


async def test_a_job_that_is_called_off_ends_and_stays_so() -> None:
    service = FakeService(gate=Gate(after=2))
    assert service.gate is not None
    async with process(service) as client:
        told = await submitted(client)
        await asyncio.wait_for(service.gate.reached.wait(), WAIT_S)
        cancelled = await client.post(f"{PATH}/{told['id']}/cancel")
        assert (cancelled.status_code, cancelled.json()["status"]) == (200, "cancelled")
        assert service.gate.cancelled.is_set()
        assert service.running == 0
        assert (await client.post(f"{PATH}/{told['id']}/cancel")).json()["status"] == "cancelled"


async def test_a_job_deleted_while_another_process_paints_it_leaves_no_image() -> None:
    service, store = FakeService(gate=Gate(after=9)), SharedStore(10**8)  # by then both are painted
    assert service.gate is not None
    async with process(service, store) as here, process(FakeService(), store) as there:
        told = await submitted(here, paint(n=2))
        await service.gate.reached.wait()
        assert any(key.startswith("job-image:") for key in store._entries)
        assert (await there.delete(f"{PATH}/{told['id']}")).status_code == 200
        service.gate.open.set()
        async with asyncio.timeout(WAIT_S):
            while (await here.get(f"{PATH}/{told['id']}")).status_code != 404:  # noqa: ASYNC110 - a store tells nobody of its changes
                await asyncio.sleep(0.001)
        assert (await there.get(f"{PATH}/{told['id']}")).status_code == 404
    assert service.running == 0
    assert not any(key.startswith("job") for key in store._entries)


async def test_what_is_deleted_is_gone_with_its_images() -> None:
    async with process(FakeService()) as client:
        told = await submitted(client)
        done = await until(client, told["id"], "completed")
        deleted = await client.delete(f"{PATH}/{told['id']}")
        assert deleted.json() == {"id": told["id"], "object": "image.job", "deleted": True}
        for address in (f"{PATH}/{told['id']}", done["images"][0]["url"], f"{PATH}/{told['id']}/result"):
            missing = await client.get(address)
            assert (missing.status_code, error_of(missing)["code"]) == (404, "not_found")
        assert (await client.get(PATH)).json()["data"] == []


async def test_the_same_key_is_one_job_and_another_request_under_it_is_refused() -> None:
    service = FakeService()
    async with process(service) as client:
        first = await submitted(client, headers={"idempotency-key": "order-7"})
        await until(client, first["id"], "completed")
        again = await submitted(client, headers={"idempotency-key": "order-7"})
        assert (again["id"], again["status"], len(service.jobs)) == (first["id"], "completed", 1)
        other = await client.post(PATH, json=paint(prompt="a hut"), headers={"idempotency-key": "order-7"})
        assert (other.status_code, error_of(other)["param"]) == (400, "idempotency-key")
        empty = await client.post(PATH, json=paint(), headers={"idempotency-key": " "})
        assert (empty.status_code, error_of(empty)["param"]) == (400, "idempotency-key")


NEXT = next_of(PAINT)


@pytest.mark.parametrize("weights", [{PAINT: 1.0, NEXT: 1.0}, {NEXT: 1.0}])
async def test_the_same_key_is_one_job_whoever_was_to_paint_it(weights: dict[str, float]) -> None:
    store, shares, key = SharedStore(10**8), IngressSettings(traffic={PAINT: weights}), {"idempotency-key": "order-7"}
    async with process(TwoVersions(), store, shares) as here, process(TwoVersions(), store) as there:
        first = await submitted(here, headers=key)
        for _ in range(8):
            assert (await submitted(here, headers=key))["id"] == first["id"]
        assert (await submitted(there, headers=key))["id"] == first["id"]  # where nothing is shared
        other = await there.post(PATH, json=paint(model=NEXT), headers=key)
        assert (other.status_code, error_of(other)["param"]) == (400, "idempotency-key")


async def test_jobs_are_listed_the_newest_first_a_page_at_a_time() -> None:
    async with process(FakeService()) as client:
        ids = [(await submitted(client))["id"] for _ in range(3)]
        page = (await client.get(PATH, params={"limit": 2})).json()
        assert ([job["id"] for job in page["data"]], page["has_more"]) == ([ids[2], ids[1]], True)
        rest = (await client.get(PATH, params={"limit": 2, "after": page["last_id"]})).json()
        assert ([job["id"] for job in rest["data"]], rest["has_more"]) == ([ids[0]], False)
        assert (await client.get(PATH, params={"limit": "many"})).status_code == 400


async def test_nobody_sees_another_tenants_job() -> None:
    settings = IngressSettings(keys=KEYS, secret=b"a secret")
    async with process(FakeService(), settings=settings) as client:
        assert (await client.post(PATH, json=paint())).status_code == 401
        told = await submitted(client, headers=ADA)
        for ask in (
            client.get(f"{PATH}/{told['id']}", headers=BOB),
            client.get(f"{PATH}/{told['id']}/content", headers=BOB),
            client.get(f"{PATH}/{told['id']}/result", headers=BOB),
            client.post(f"{PATH}/{told['id']}/cancel", headers=BOB),
            client.delete(f"{PATH}/{told['id']}", headers=BOB),
        ):
            assert (await ask).status_code == 404
        assert (await client.get(PATH, headers=BOB)).json()["data"] == []
        assert len((await client.get(PATH, headers=ADA)).json()["data"]) == 1
        same_key = [await submitted(client, headers={**who, "idempotency-key": "k"}) for who in (ADA, BOB)]
        assert same_key[0]["id"] != same_key[1]["id"]


async def test_a_job_is_told_of_by_every_process_and_taken_up_where_its_own_ended() -> None:
    clock = Clock()
    store, hanging = SharedStore(10**7, clock), FakeService(gate=Gate(after=3))
    assert hanging.gate is not None
    async with process(FakeService(), store) as other:
        async with process(hanging, store) as client:
            told = await submitted(client)
            assert told["survives"]
            await asyncio.wait_for(hanging.gate.reached.wait(), WAIT_S)
            assert (await other.get(f"{PATH}/{told['id']}")).status_code == 200
            seed = hanging.jobs[0].seed  # type: ignore[union-attr]
        assert hanging.running == 0
        await other.post(PATH, json=paint(prompt="another"))  # it looks after jobs from its first on
        done = await until(other, told["id"], "completed")
        assert done["images"][0]["seed"] == seed
        assert (await other.get(done["images"][0]["url"])).status_code == 200


async def test_without_a_store_that_is_shared_a_job_that_is_lost_is_told_as_such() -> None:
    async with process(FakeService()) as client:
        told = await submitted(client)
        assert not told["survives"]
    async with process(FakeService()) as other:
        lost = await other.get(f"{PATH}/{told['id']}")
    assert lost.status_code == 404
    assert "without cache.redis" in error_of(lost)["message"]


async def test_a_tenant_with_as_many_jobs_as_it_may_keep_is_told_the_setting() -> None:
    async with process(FakeService(), settings=IngressSettings(kept=KeptConfig(jobs=2))) as client:
        for _ in range(2):
            await submitted(client)
        full = await client.post(PATH, json=paint())
        assert (full.status_code, "ingress.kept.jobs" in error_of(full)["message"]) == (429, True)
        assert "retry-after" in full.headers


@pytest.mark.parametrize(
    "job",
    [
        PaintJob("a boat"),
        PaintJob("é 🧿", n=3, width=64, height=32, negative_prompt="fog", steps=5, guidance_scale=2.5, seed=2**63 - 1),
        PaintJob("a", trunk=Trunk("b", 0.5), sampler="euler"),
        PaintJob("a", init=GivenImage(ImagePart(b"\0\xff", 2, 1, "image"), 0.5)),
        PaintJob("a", init=GivenImage(ImagePart(b"123", 2, 1, "image"), None, ImagePart(b"4567", 2, 1, "mask"))),
    ],
)
def test_a_request_is_the_same_after_it_was_kept(job: PaintJob) -> None:
    request = JobRequest("m", job, "webp", 80, priority=3, asked_as={"steps": "num_inference_steps"}, notes={"style": "none"})
    assert JobRequest.of(request.to_bytes()) == request


@pytest.mark.parametrize("data", [b"", b"\0\0\0\x05ab", b"\0\0\0\x02{}", b"\0\0\0\x04null", b"\xff\xff\xff\xff"])
def test_a_request_that_cannot_be_read_any_more_fails_its_job(data: bytes) -> None:
    with pytest.raises(StageFailed):
        JobRequest.of(data)

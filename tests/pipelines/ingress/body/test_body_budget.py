"""What all bodies of a process weigh together is bounded, whatever they say of themselves and however slowly they come."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from starlette.types import Message, Receive

from pipelines.ingress.app import Kept, create_app
from pipelines.ingress.body.body_budget import FREE_BYTES, Body, BodyBudget
from pipelines.ingress.images.fetch import FetchPolicy
from pipelines.ingress.request.settings import IngressSettings
from pipelines.settings.derived import body_bytes_in_flight
from pipelines.settings.schema.config import LimitsConfig
from stages.concurrency.thread_pool import TENANT
from stages.contract.errors import Overloaded
from tests.pipelines.ingress.fakes import FakeService, Gate
from tests.pipelines.ingress.image_server import body as body_of
from tests.pipelines.ingress.image_server import running
from tests.pipelines.ingress.surface import chat_body, client_of, error_of, image_part
from tests.stages.fakes import PATIENCE_S
from tests.stages.image_files import save

LARGE = 1_000_000


def pieces(*sizes: int) -> Receive:
    """A body that comes in pieces of these sizes, and never ends."""
    left = iter(sizes)

    async def receive() -> Message:
        size = next(left, None)
        if size is None:
            await asyncio.Event().wait()
        return {"type": "http.request", "body": bytes(size or 0), "more_body": True}

    return receive


async def sent(budget: BodyBudget, *sizes: int) -> Body:
    body, receive = budget.body(), pieces(*sizes)
    for _ in sizes:
        await body.receive(receive)
    return body


async def test_the_first_bytes_of_every_request_are_free() -> None:
    budget = BodyBudget(1, max_wait_s=0)
    for _ in range(100):
        await sent(budget, FREE_BYTES)
    assert budget.held_bytes == 0


async def test_a_body_counts_until_its_request_is_over() -> None:
    budget = BodyBudget(LARGE, max_wait_s=0)
    body = await sent(budget, FREE_BYTES - 1, 1000, 1)
    assert budget.held_bytes == 1000
    body.close()
    assert budget.held_bytes == 0


async def test_who_finds_no_room_is_told_what_is_held_the_limit_and_when_to_come_back() -> None:
    budget = BodyBudget(LARGE, max_wait_s=0)
    first, second = await sent(budget, FREE_BYTES + 700_000), budget.body()
    with pytest.raises(Overloaded) as caught:
        await second.receive(pieces(FREE_BYTES + 300_001))
    assert all(word in caught.value.message for word in ("700000", "1000000", "limits.body_bytes_in_flight"))
    assert caught.value.retry_after_s
    second.close()
    assert budget.held_bytes == 700_000
    first.close()


async def test_who_waits_goes_on_as_soon_as_there_is_room_in_order_of_arrival() -> None:
    budget, order = BodyBudget(LARGE, max_wait_s=PATIENCE_S), list[int]()

    async def send(number: int, size: int) -> None:
        body = await sent(budget, FREE_BYTES + size)
        order.append(number)
        body.close()

    first = await sent(budget, FREE_BYTES + LARGE)
    async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as tasks:
        for number, size in enumerate((LARGE, 1, LARGE // 2)):
            tasks.create_task(send(number, size))
        await asyncio.sleep(0)
        first.close()
    assert order == [0, 1, 2]
    assert budget.held_bytes == 0


async def test_a_client_that_leaves_while_it_waits_leaves_nothing_behind() -> None:
    budget = BodyBudget(LARGE, max_wait_s=PATIENCE_S)
    first, second = await sent(budget, FREE_BYTES + LARGE), budget.body()
    waiting = asyncio.create_task(second.receive(pieces(FREE_BYTES + 1)))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    second.close()
    first.close()
    third = await sent(budget, FREE_BYTES + LARGE)
    third.close()
    assert budget.held_bytes == 0


async def test_a_body_that_has_come_slowly_makes_room_for_who_waits() -> None:
    budget = BodyBudget(LARGE, max_wait_s=PATIENCE_S, patience_s=0)
    slow, receive = budget.body(), pieces(FREE_BYTES + LARGE)
    await slow.receive(receive)
    reading = asyncio.create_task(slow.receive(receive))
    await asyncio.sleep(0)
    waiting = asyncio.create_task(sent(budget, FREE_BYTES + 1))
    with pytest.raises(Overloaded, match="longer than"):
        await reading
    with pytest.raises(Overloaded):
        await slow.receive(receive)
    slow.close()
    (await waiting).close()
    assert budget.held_bytes == 0


async def test_a_body_that_has_come_whole_makes_room_for_nobody() -> None:
    budget = BodyBudget(LARGE, max_wait_s=0.01, patience_s=0)
    whole = budget.body()

    async def receive() -> Message:
        return {"type": "http.request", "body": bytes(FREE_BYTES + LARGE), "more_body": False}

    await whole.receive(receive)
    with pytest.raises(Overloaded, match="no room came"):
        await sent(budget, FREE_BYTES + 1)

    async def leaves() -> Message:
        return {"type": "http.disconnect"}

    assert (await whole.receive(leaves))["type"] == "http.disconnect"
    whole.close()


async def test_a_slow_body_that_nobody_waits_for_goes_on() -> None:
    budget = BodyBudget(LARGE, max_wait_s=0, patience_s=0)
    body = await sent(budget, FREE_BYTES + 10, 10, 10)
    (await sent(budget, FREE_BYTES + 10)).close()
    body.close()


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3 * FREE_BYTES)), max_size=40))
async def test_never_more_is_held_than_the_limit_and_all_is_given_back(steps: list[tuple[int, int]]) -> None:
    budget = BodyBudget(4 * FREE_BYTES, max_wait_s=0)
    bodies: dict[int, Body] = {}
    for number, size in steps:
        if not size and number in bodies:
            bodies.pop(number).close()
            continue
        body = bodies.setdefault(number, budget.body())
        try:
            await body.receive(pieces(size))
        except Overloaded:
            bodies.pop(number).close()
        assert 0 <= budget.held_bytes <= 4 * FREE_BYTES
    for body in bodies.values():
        body.close()
    assert budget.held_bytes == 0


async def test_what_a_request_holds_is_counted_once_though_several_ask_for_it_at_once() -> None:
    budget = BodyBudget(LARGE)
    first, body = await sent(budget, FREE_BYTES + LARGE), await sent(budget, FREE_BYTES)
    asking = [asyncio.create_task(body.take(size)) for size in (1000, 200)]
    await asyncio.sleep(0)
    first.close()
    await asyncio.wait_for(asyncio.gather(*asking), PATIENCE_S)
    assert budget.held_bytes == 1200
    body.close()
    assert budget.held_bytes == 0


# ---- several tenants ----


async def of(tenant: str, budget: BodyBudget, size: int) -> Body:
    TENANT.set(tenant)
    return await sent(budget, FREE_BYTES + size)


async def by(tenant: str, budget: BodyBudget, size: int) -> Body:
    """In a context of its own, as every request is."""
    return await asyncio.create_task(of(tenant, budget, size))


async def test_a_tenant_leaves_as_much_to_others_as_it_takes() -> None:
    budget = BodyBudget(LARGE, is_shared=True, max_wait_s=0)
    mine = [await by("a", budget, LARGE // 4) for _ in range(2)]
    with pytest.raises(Overloaded):
        await by("a", budget, 1)
    theirs = await by("b", budget, LARGE // 4)
    with pytest.raises(Overloaded):
        await by("b", budget, 1)
    last = await by("c", budget, LARGE // 8)
    for body in (*mine, theirs, last):
        body.close()
    assert budget.held_bytes == 0


async def test_a_tenant_may_always_send_one_whole_body() -> None:
    budget = BodyBudget(LARGE, largest=LARGE, is_shared=True, max_wait_s=0)
    (await by("a", budget, LARGE)).close()
    assert budget.held_bytes == 0


async def test_one_tenant_alone_may_have_all_the_room() -> None:
    budget = BodyBudget(LARGE, max_wait_s=0)
    (await by("a", budget, LARGE)).close()


async def test_of_those_who_wait_whoever_holds_least_goes_first() -> None:
    budget, order = BodyBudget(LARGE, largest=LARGE, is_shared=True, max_wait_s=PATIENCE_S), list[str]()

    async def send(tenant: str, size: int) -> None:
        body = await of(tenant, budget, size)
        order.append(tenant)
        body.close()

    held = [await by("a", budget, LARGE // 2), await by("c", budget, LARGE // 2)]
    async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as tasks:
        for tenant in ("a", "a", "b"):
            tasks.create_task(send(tenant, LARGE // 2))
        await asyncio.sleep(0)
        held[1].close()
        await asyncio.sleep(0)
        held[0].close()
    assert order == ["b", "a", "a"]
    assert budget.held_bytes == 0


# ---- over HTTP ----

LIMITS = LimitsConfig(body_bytes=250_000, body_bytes_in_flight=250_000)


def kept_with(max_wait_s: float) -> Kept:
    kept = Kept.new(IngressSettings(limits=LIMITS))
    return replace(kept, bodies=BodyBudget(body_bytes_in_flight(LIMITS), max_wait_s=max_wait_s))


async def in_chunks(body: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(body), 50_000):
        yield body[start : start + 50_000]


@pytest.mark.parametrize("declared", [True, False])
async def test_while_one_large_body_is_held_another_gets_a_429_and_text_is_answered(declared: bool) -> None:
    gate = Gate()
    kept, large = kept_with(0), chat_body([image_part(bytes(150_000))])
    app = create_app(FakeService(gate=gate), IngressSettings(limits=LIMITS), kept)
    headers = {"content-type": "application/json"}
    async with client_of(app) as client:
        padded = httpx.Request("POST", "http://t", json=chat_body(" " * 190_000)).content
        first = asyncio.create_task(client.post("/v1/chat/completions", content=padded, headers=headers))
        await gate.reached.wait()
        content = httpx.Request("POST", "http://t", json=large).content
        refused = await client.post(
            "/v1/chat/completions", content=content if declared else in_chunks(content), headers=headers
        )
        assert refused.status_code == 429
        assert "retry-after" in refused.headers
        assert "limits.body_bytes_in_flight" in error_of(refused)["message"]
        gate.open.set()
        assert (await client.post("/v1/chat/completions", json=chat_body())).status_code == 200
        assert (await first).status_code == 200
        assert kept.bodies.held_bytes == 0
        assert (await client.post("/v1/chat/completions", content=content, headers=headers)).status_code == 400  # no image
    assert kept.bodies.held_bytes == 0


async def test_what_is_fetched_for_a_request_counts_as_if_it_had_been_sent() -> None:
    gate = Gate()
    with running() as server:
        server.answers["/image"] = body_of(noisy := noise_png())
        settings = IngressSettings(limits=LIMITS, fetch=FetchPolicy(True, 30, (f"127.0.0.1:{server.port}",)))
        kept = Kept.new(settings)
        app = create_app(FakeService(gate=gate), settings, kept)
        async with client_of(app) as client:
            asked = chat_body([{"type": "image_url", "image_url": {"url": server.url("/image")}}])
            first = asyncio.create_task(client.post("/v1/chat/completions", json=asked))
            await asyncio.wait_for(gate.reached.wait(), PATIENCE_S)
            assert kept.bodies.held_bytes > len(noisy) - FREE_BYTES
            gate.open.set()
            assert (await first).status_code == 200
        assert kept.bodies.held_bytes == 0


def noise_png() -> bytes:
    return save(Image.fromarray(np.random.default_rng(0).integers(0, 256, (200, 200, 3), np.uint8)), "PNG")

"""Redis dies, freezes, is slow, fills up, is emptied and comes back while requests run: none fails, none is answered otherwise, and
`/metrics` tells of it. Real servers behind the real product; every fault meets a tenant for whom nothing is remembered yet, so that all
is looked for."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager

import pytest

from cache.redis.redis_connection import Patience
from tests.cache.redis_server import RedisServer
from tests.cluster.remembering.serving import ENCODER, LLM, Answers, Remembering, everything, fresh_png
from tests.cluster.server import eventually

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

IMAGE = fresh_png(200)
MOST_LOOK_UPS = 12
"""Of one request, one after the other: of its inputs, where it is asked for and where it is made, and of its pages; no claim adds one."""


@pytest.fixture(scope="module")
def without(remembering: Remembering) -> Answers:
    """What is answered where there is no Redis at all."""
    with away(remembering):
        return everything(remembering.stranger(), IMAGE)


@contextmanager
def away(remembering: Remembering) -> Iterator[None]:
    for store in remembering.stores:
        store.kill()
    try:
        yield
    finally:
        for store in remembering.stores:
            store.start()


@contextmanager
def frozen(remembering: Remembering) -> Iterator[None]:
    for store in remembering.stores:
        store.freeze()
    try:
        yield
    finally:
        for store in remembering.stores:
            store.thaw()


@contextmanager
def slow(remembering: Remembering) -> Iterator[None]:
    """What they say comes a byte at a time."""
    for line in remembering.lines:
        line.slow_down()
    try:
        yield
    finally:
        for line in remembering.lines:
            line.recover()


@contextmanager
def full(remembering: Remembering) -> Iterator[None]:
    """It takes nothing more, and gives what it has."""
    for store in remembering.stores:
        configure(store, maxmemory="1", maxmemory_policy="noeviction")
    try:
        yield
    finally:
        for store in remembering.stores:
            configure(store, maxmemory="512mb", maxmemory_policy="allkeys-lfu")


def configure(store: RedisServer, **settings: str) -> None:
    with store.client() as client:
        for name, value in settings.items():
            client.config_set(name.replace("_", "-"), value)


def flush(store: RedisServer) -> None:
    with store.client() as client:
        client.flushall()


def restart(store: RedisServer) -> None:
    store.kill()
    store.start()


def is_down(remembering: Remembering, stage: str, cache: str) -> bool:
    return remembering.server.counter(f"triptych_stage_{cache}_redis_down", stage) > 0


def closed(remembering: Remembering) -> bool:
    """Whether every breaker is: somebody must try."""
    remembering.operator.ask("Is it back?")
    return not any(is_down(remembering, stage, cache) for stage in (LLM, ENCODER) for cache in ("cache", "pages"))


def opened(remembering: Remembering) -> float:
    """How often breakers have opened."""
    counter = remembering.server.counter
    return sum(counter(f"triptych_stage_{cache}_redis_opened_total", LLM) for cache in ("cache", "pages"))


def test_killed_no_request_fails_and_the_breaker_opens_and_closes_again(remembering: Remembering, without: Answers) -> None:
    eventually(lambda: opened(remembering) > 0, "/metrics tells that a breaker has opened")
    eventually(lambda: closed(remembering), "every breaker is closed again")
    tenant, before = remembering.stranger(), remembering.keys()
    everything(tenant, IMAGE).assert_same(without)
    assert remembering.written(before, at_least=4)


@pytest.mark.parametrize("fault", [frozen, slow])
def test_frozen_or_slow_no_request_fails_and_each_is_delayed_by_less_than_its_look_ups_may_take(
    remembering: Remembering, without: Answers, fault: Callable[[Remembering], AbstractContextManager[None]]
) -> None:
    eventually(lambda: closed(remembering), "every breaker is closed")
    before = opened(remembering)
    with fault(remembering):
        found = everything(remembering.stranger(), IMAGE)
        eventually(lambda: opened(remembering) > before, "/metrics tells that a breaker has opened")
    found.assert_same(without)
    assert found.longest_s < 3 * without.longest_s + MOST_LOOK_UPS * Patience().timeout_s


def refused(remembering: Remembering) -> tuple[float, float]:
    """Of features by the one server, of pages by the other."""
    counter = remembering.server.counter
    return counter("triptych_stage_cache_errors_total", ENCODER), counter("triptych_stage_pages_errors_total", LLM)


def test_full_no_request_fails_and_what_is_not_stored_is_counted(remembering: Remembering, without: Answers) -> None:
    tenant, before = remembering.stranger(), refused(remembering)
    with full(remembering):
        everything(tenant, IMAGE).assert_same(without)
        everything(tenant, IMAGE).assert_same(without)

    def counted() -> bool:
        return all(now > then for now, then in zip(refused(remembering), before, strict=True))

    eventually(counted, "/metrics tells that values were refused")


@pytest.mark.parametrize("fault", [flush, restart])
def test_emptied_or_restarted_meanwhile_no_request_fails(
    remembering: Remembering, without: Answers, fault: Callable[[RedisServer], None]
) -> None:
    tenant = remembering.stranger()
    everything(tenant, IMAGE).assert_same(without)
    with ThreadPoolExecutor(1) as others:
        answers = others.submit(everything, tenant, IMAGE)
        for store in remembering.stores:
            fault(store)
        answers.result().assert_same(without)
    everything(tenant, IMAGE).assert_same(without)

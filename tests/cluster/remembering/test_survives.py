"""What is remembered outlives who made it: kill -9 of every replica of the LLM, of the image encoder and of the denoiser, while an image
is being painted; and what somebody has written into Redis meanwhile is believed by nobody.

One death for all tests here: each tenant has asked before, and asks again afterwards.
"""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from cache.codec import describe, encode
from tests.cache.redis_server import RedisServer
from tests.cluster.remembering.serving import ENCODER, LLM, LONG_TEXT, Answer, Remembering, Tenant, fresh_png, keys_of
from tests.cluster.server import eventually

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

IMAGE, STORY = fresh_png(300), f"Learn this by heart. {LONG_TEXT}"
"""Nobody is asked about them elsewhere."""

STEPS, KEPT, SEED = 150, 75, 77  # the configuration keeps the state half-way
KILLED = ("denoiser", "llm", "vision-encoder")


def flipped(key: bytes, data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


def cut(key: bytes, data: bytes) -> bytes:
    return data[: len(data) * 2 // 3]


def emptied(key: bytes, data: bytes) -> bytes:
    return b""


def forged(key: bytes, data: bytes) -> bytes:
    """Sound in every way but that whoever wrote it does not know the tenant's secret."""
    told = describe(data)
    arrays = {name: np.ones(shape, dtype) for name, dtype, shape in told.arrays if dtype != "bfloat16"}
    return encode(told.key, arrays, kind=told.kind, seal="a guess")


Damage = Callable[[bytes, bytes], bytes]
DAMAGES: tuple[Damage, ...] = (flipped, cut, emptied, forged)


@dataclass(frozen=True, slots=True)
class Twice:
    """Asked and looked, before and afterwards."""

    asked: tuple[Answer, Answer]
    looked: tuple[Answer, Answer]


@dataclass(frozen=True, slots=True)
class Survived:
    intact: Twice
    damaged: dict[str, Twice]
    foreign: Twice
    num_corrupt: float
    told_steps: list[int]


@pytest.fixture(scope="module")
def survived(remembering: Remembering) -> Survived:
    tenants = {damage.__name__: remembering.stranger() for damage in DAMAGES}
    foreign = remembering.stranger()
    first, keys = {}, {}
    for tenant in (remembering.operator, *tenants.values(), foreign):
        before = remembering.keys()
        first[tenant.name] = (tenant.ask(text=STORY), tenant.look(IMAGE))
        keys[tenant.name] = remembering.written(before, at_least=first[tenant.name][0].num_pages + 1)
    for damage in DAMAGES:
        rewrite(remembering, keys[tenants[damage.__name__].name], damage)
    exchange(remembering, keys[foreign.name], keys[remembering.operator.name])
    told_steps = painted_while_all_die(remembering)

    def again(tenant: Tenant) -> Twice:
        asked, looked = first[tenant.name]
        return Twice((asked, tenant.ask(text=STORY)), (looked, tenant.look(IMAGE)))

    intact = again(remembering.operator)
    damaged = {name: again(tenant) for name, tenant in tenants.items()}
    strange = again(foreign)
    num_corrupt = sum(remembering.count(f"{cache}_corrupt_total", LLM) for cache in ("cache", "pages"))
    return Survived(intact, damaged, strange, num_corrupt, told_steps)


def rewrite(remembering: Remembering, keys: set[bytes], damage: Damage) -> None:
    """Every value of these in Redis."""
    for store, key, data in values(remembering, keys):
        put(store, key, damage(key, data))


def exchange(remembering: Remembering, theirs: set[bytes], others: set[bytes]) -> None:
    """Under their keys: another tenant's values, as long as their own."""
    pool = [data for _, _, data in values(remembering, others)]
    for store, key, data in values(remembering, theirs):
        put(store, key, next(other for other in pool if len(other) == len(data)))


def values(remembering: Remembering, keys: set[bytes]) -> list[tuple[RedisServer, bytes, bytes]]:
    found = []
    for store in remembering.stores:
        with store.client() as client:
            given = [(key, client.get(key)) for key in sorted(keys)]
        found += [(store, key, data) for key, data in given if isinstance(data, bytes)]
    assert len(found) == len(keys)
    return found


def put(store: RedisServer, key: bytes, data: bytes) -> None:
    with store.client() as client:
        client.set(key, data)


def painted_while_all_die(remembering: Remembering) -> list[int]:
    """The steps of a painting as they were told, in the midst of which the replicas were killed, some steps after its state was kept."""
    told: list[int] = []
    before = keys_of(remembering.pages)

    def paint() -> None:
        for step in remembering.operator.steps_of_a_painting(STEPS, SEED):
            told.append(step)

    with ThreadPoolExecutor(1) as painters:
        painting = painters.submit(paint)
        eventually(
            lambda: bool(keys_of(remembering.pages) - before) and bool(told) and told[-1] > KEPT + 1,
            "its state is kept, and steps after that are told",
        )
        killed = {deployment: len(remembering.server.kill(deployment)) for deployment in KILLED}
        assert all(killed.values())
        painting.result()

    def all_there() -> bool:
        """Who still starts takes the machine's time, and others' looks into Redis too long then."""
        are_new = all(len(remembering.server.pids(deployment)) == number for deployment, number in killed.items())
        return are_new and killed.items() <= remembering.server.replicas().items()

    eventually(all_there, "as many replicas as there were")
    return told


def test_a_long_question_is_answered_from_redis_by_another_process(survived: Survived) -> None:
    before, after = survived.intact.asked
    assert before.cached_tokens < before.prompt_tokens / 4
    assert after.text == before.text
    assert after.cached_tokens == 64 * after.num_pages
    assert after.stages[LLM]["cache"] == "redis"
    assert after.stages[LLM]["bytes_moved"] > 0
    assert after.stages[LLM]["replica"] != before.stages[LLM]["replica"]


def test_an_image_is_seen_without_being_encoded_again(survived: Survived) -> None:
    before, after = survived.intact.looked
    assert before.stages[ENCODER]["cache"] == "miss"
    assert after.text == before.text
    assert after.stages[ENCODER]["cache"] == "redis"
    assert after.stages[ENCODER]["run_s"] == 0


def test_both_replicas_use_what_neither_of_them_has_made(remembering: Remembering, survived: Survived) -> None:
    """Many at once: alone, a question goes to whoever holds its beginning by now."""
    visit = survived.intact.asked[1].stages[LLM]
    came_from: dict[str, set[str]] = {visit["replica"]: {visit["cache"]}}

    def ask(_: int) -> Mapping[str, Any]:
        return remembering.operator.ask("How many pears are there?", STORY).stages[LLM]

    def both_asked() -> bool:
        with ThreadPoolExecutor(8) as callers:
            for visit in callers.map(ask, range(16)):
                came_from.setdefault(visit["replica"], set()).add(visit["cache"])
        return len(came_from) == 2

    eventually(both_asked, "both replicas have answered")
    assert all("redis" in found for found in came_from.values())


def test_a_painting_goes_on_from_the_state_that_was_kept(survived: Survived) -> None:
    told = survived.told_steps
    fall = next(index for index in range(1, len(told)) if told[index] <= told[index - 1])
    assert told[fall] == KEPT + 1
    assert told[fall:] == list(range(KEPT + 1, STEPS + 1))


@pytest.mark.parametrize("damage", [damage.__name__ for damage in DAMAGES])
def test_what_was_damaged_in_redis_is_computed_again(survived: Survived, damage: str) -> None:
    found = survived.damaged[damage]
    for before, after in (found.asked, found.looked):
        assert after.text == before.text
        assert after.cached_tokens < 64


def test_another_tenants_values_under_ones_own_keys_put_no_words_into_an_answer(survived: Survived) -> None:
    for before, after in (survived.foreign.asked, survived.foreign.looked):
        assert after.text == before.text
        assert after.cached_tokens < 64


def test_what_was_not_believed_is_counted(survived: Survived) -> None:
    pages = sum(found.asked[0].num_pages for found in (*survived.damaged.values(), survived.foreign))
    assert survived.num_corrupt >= pages / 2

"""What tenants are told of what they have used: daily totals and counters, each its own, of all HTTP processes."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import httpx
import pytest

from cache.store import MemoryStore, StoreDown
from pipelines.ingress.app import Kept, create_app
from pipelines.ingress.request.settings import IngressSettings
from pipelines.ingress.tenants.between_processes import GONE_S
from pipelines.jobs import Service
from stages.contract.errors import Unavailable
from tests.pipelines.ingress.fakes import CHAT, PAINT, FakeService
from tests.pipelines.ingress.kept.workers import Clock, SharedStore
from tests.pipelines.ingress.surface import JsonObject, client_of, error_of
from tests.pipelines.ingress.tenants.clocked import DAY, chat, clocked, key, several

NEXT_DAY = "2026-03-02"


@asynccontextmanager
async def processes(
    num: int, settings: IngressSettings, store: MemoryStore | None = None, service: Service | None = None
) -> AsyncIterator[tuple[Clock, list[tuple[httpx.AsyncClient, Kept]]]]:
    clock, found = Clock(), []
    async with AsyncExitStack() as stack:
        for _ in range(num):
            kept = clocked(settings, clock, store)
            app = create_app(service or FakeService(), settings, kept)
            found.append((await stack.enter_async_context(client_of(app)), kept))
            stack.callback(kept.threads.close)
        yield clock, found


async def usage(client: httpx.AsyncClient, tenant: str, **query: Any) -> JsonObject:
    answer = await client.get("/v1/usage", params=query, headers=key(tenant))
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def brief(told: JsonObject) -> list[tuple[str, str, int, int]]:
    return [(day["date"], day["tenant"], day["requests"], day["refused"]) for day in told["data"]]


async def test_a_tenant_is_told_its_own_totals_and_an_operator_everybodys() -> None:
    async with processes(1, several({"ada": {"requests_per_minute": 2}})) as (_, [(client, _kept)]):
        answers = [await chat(client, tenant, content="one two three") for tenant in ("ada", "ada", "ada", "bob")]
        told = {tenant: await usage(client, tenant) for tenant in ("ada", "bob", "root")}
    assert brief(told["ada"]) == [(DAY, "ada", 2, 1)]
    assert brief(told["bob"]) == [(DAY, "bob", 1, 0)]
    assert brief(told["root"]) == [(DAY, "ada", 2, 1), (DAY, "bob", 1, 0)]
    [day] = told["ada"]["data"]
    tokens = [answer.json()["usage"] for answer in answers[:2]]
    assert day["input_tokens"] == sum(each["prompt_tokens"] for each in tokens) == 6
    assert day["output_tokens"] == sum(each["completion_tokens"] for each in tokens) > 0
    assert day["stages"] == {f"{CHAT}.vision_encoder": 0.02, f"{CHAT}.llm": 0.02}
    assert day["device_seconds"] == 0.04
    assert (told["ada"]["object"], told["ada"]["survives"]) == ("list", False)


async def test_what_is_used_tomorrow_is_tomorrows() -> None:
    async with processes(1, several()) as (clock, [(client, _)]):
        await chat(client)
        clock.now += 13 * 3600
        await chat(client)
        await chat(client)
        assert brief(await usage(client, "ada")) == [(NEXT_DAY, "ada", 2, 0)]
        assert brief(await usage(client, "ada", days=2)) == [(NEXT_DAY, "ada", 2, 0), (DAY, "ada", 1, 0)]


@pytest.mark.parametrize("days", ["0", "91", "-1", "1.5", "many", "", "1e1", "99999"])
async def test_days_that_are_none_are_refused_by_name(days: str) -> None:
    async with processes(1, several()) as (_, [(client, _kept)]):
        answer = await client.get("/v1/usage", params={"days": days}, headers=key("ada"))
    assert (answer.status_code, error_of(answer)["param"]) == (400, "days")
    assert "1 to 90" in error_of(answer)["message"]


async def test_nobody_without_a_key_is_told_and_without_keys_this_machines_user_is() -> None:
    async with processes(1, several()) as (_, [(client, _kept)]):
        assert (await client.get("/v1/usage")).status_code == 401
    async with processes(1, IngressSettings()) as (_, [(client, _kept)]):
        await client.post("/v1/images/generations", json={"model": PAINT, "prompt": "a boat"})
        answer = await client.get("/v1/usage")
    assert brief(answer.json()) == [(DAY, "default", 1, 0)]


async def test_totals_are_of_all_processes_and_outlive_each() -> None:
    store, settings = SharedStore(10**6), several()
    async with processes(2, settings, store) as (_, [(one, kept_one), (two, kept_two)]):
        await chat(one)
        await chat(two)
        await kept_one.shared.write_usage()
        assert brief(await usage(one, "ada")) == [(DAY, "ada", 1, 0)]  # the other has yet to write
        assert brief(await usage(two, "ada")) == [(DAY, "ada", 2, 0)]
        await chat(one)
        await kept_one.shared.write_usage()
        await kept_two.close()
        assert brief(await usage(one, "ada")) == [(DAY, "ada", 3, 0)]
        await kept_one.close()
    async with processes(1, settings, store) as (_, [(new, _)]):
        told = await usage(new, "ada")
    assert (brief(told), told["survives"]) == ([(DAY, "ada", 3, 0)], True)


async def test_what_nobody_who_has_the_secret_wrote_counts_for_nothing() -> None:
    store, settings = SharedStore(10**6), several()
    async with processes(1, settings, store) as (_, [(client, kept)]):
        await chat(client)
        await kept.shared.write_usage()
        forged = json.dumps({"ada": {"counts": [99, 0, 0, 0], "device_s": {}}}).encode()
        for index in (f"usage:{DAY}", "quotas"):
            for process in ("forged", "nothing-there", "../../x"):
                store.add(index, process, ttl_s=60)
            store.write(f"{index}:forged", b"0" * 32 + forged, ttl_s=60)
        await kept.shared.exchange()
        assert brief(await usage(client, "ada")) == [(DAY, "ada", 1, 0)]


class Away(SharedStore):
    is_away = False

    def members(self, index: str) -> list[str]:
        if self.is_away:
            raise StoreDown("away")
        return list(super().members(index))


async def test_while_the_store_is_away_totals_are_not_told_by_halves_and_requests_go_on() -> None:
    store = Away(10**6)
    async with processes(1, several({"ada": {"requests_per_minute": 2}}), store) as (clock, [(client, kept)]):
        await kept.shared.exchange()
        store.is_away = True
        answer = await client.get("/v1/usage", headers=key("ada"))
        assert (answer.status_code, "retry-after" in answer.headers) == (503, True)
        with pytest.raises(Unavailable):
            await kept.shared.exchange()
        assert [(await chat(client)).status_code for _ in range(3)] == [200, 200, 429]
        store.is_away = False
        clock.now += 1
        await kept.shared.exchange()
        assert (await chat(client)).status_code == 429


async def test_two_processes_share_a_quota_once_they_have_told_each_other() -> None:
    store = SharedStore(10**6)
    async with processes(2, several({"ada": {"requests_per_minute": 3}}), store) as (_, [(one, kept_one), (two, kept_two)]):
        for kept in (kept_one, kept_two):
            await kept.shared.exchange()
        assert [(await chat(one)).status_code for _ in range(3)] == [200] * 3
        for kept in (kept_one, kept_two):
            await kept.shared.exchange()
        assert [(await chat(client)).status_code for client in (one, two)] == [429, 429]


async def test_a_process_that_could_not_hear_the_others_for_long_goes_on_without_them() -> None:
    store = Away(10**9)
    async with processes(2, several({"ada": {"concurrent_requests": 1}}), store) as (clock, [(one, kept_one), (_, kept_two)]):
        kept_two.meter.quotas.begin("ada", clock())
        for kept in (kept_two, kept_one):
            await kept.shared.exchange()
        assert (await chat(one)).status_code == 429
        store.is_away = True
        clock.now += GONE_S - 1
        with pytest.raises(Unavailable):
            await kept_one.shared.exchange()
        assert (await chat(one)).status_code == 429
        clock.now += 2
        with pytest.raises(Unavailable):
            await kept_one.shared.exchange()
        assert (await chat(one)).status_code == 200


async def test_counts_are_told_by_themselves_once_the_surface_is_tended() -> None:
    store = SharedStore(10**6)
    async with processes(1, several({"ada": {"requests_per_minute": 3}}), store) as (_, [(client, kept)]):
        await chat(client)
        kept.shared.tend()
        kept.shared.tend()
        await _once(lambda: bool(store.members("quotas")) and bool(store.members(f"usage:{DAY}")))
        await kept.close()


async def _once(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110  (another thread writes)
        await asyncio.sleep(0.001)


def series(page: str, name: str) -> dict[str, float]:
    """Labels -> value."""
    lines = [line for line in page.splitlines() if line.startswith(f"{name}{{")]
    return {line[len(name) : line.rindex(" ")]: float(line.rpartition(" ")[2]) for line in lines}


async def test_counters_tell_a_tenant_its_own_and_an_operator_everybodys() -> None:
    async with processes(1, several({"ada": {"requests_per_minute": 1}})) as (_, [(client, _kept)]):
        for tenant in ("ada", "ada", "bob"):
            answer = await chat(client, tenant, content="one two")
        pages = {tenant: (await client.get("/metrics", headers=key(tenant))).text for tenant in ("ada", "bob", "root")}
    assert series(pages["root"], "triptych_tenant_requests_total") == {'{tenant="ada"}': 1, '{tenant="bob"}': 1}
    assert series(pages["ada"], "triptych_tenant_requests_total") == {'{tenant="ada"}': 1}
    assert series(pages["ada"], "triptych_tenant_refused_total") == {'{quota="requests_per_minute",tenant="ada"}': 1}
    assert series(pages["bob"], "triptych_tenant_refused_total") == {}
    assert series(pages["bob"], "triptych_tenant_tokens_total") == {
        '{kind="input",tenant="bob"}': 2,
        '{kind="output",tenant="bob"}': answer.json()["usage"]["completion_tokens"],
    }
    assert series(pages["bob"], "triptych_tenant_device_seconds_total") == {
        f'{{stage="{CHAT}.llm",tenant="bob"}}': 0.01,
        f'{{stage="{CHAT}.vision_encoder",tenant="bob"}}': 0.01,
    }


async def test_a_tenant_is_counted_by_names_of_the_configuration_only() -> None:
    """Nobody makes series by asking: keys, models and ids are the clients' to choose."""
    async with processes(1, several({"ada": {"requests_per_minute": 1000}})) as (_, [(client, _kept)]):
        for number in range(20):
            await chat(client, f"nobody-{number}")
            await chat(client, model=f"no-such-{number}")
        page = (await client.get("/metrics", headers=key("root"))).text
        told = await usage(client, "root")
    assert len([line for line in page.splitlines() if line.startswith("triptych_tenant_")]) == 2  # counted, and since when
    assert brief(told) == [(DAY, "ada", 20, 0)]

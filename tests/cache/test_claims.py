"""Claims, in a store without Redis and in a real one: one of many may make a value, and what becomes of that is seen by the others."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from cache.claims import CLAIM_MS, CLAIM_S, MARK, BeingMade, Claim, ClaimingTier, HeldClaims
from cache.codec import Arrays
from cache.memory import MemoryTier
from cache.redis.redis_tier import RedisTier, stored_as
from cache.tier import Tier
from cache.tiered import Found, TieredCache
from cache.write_queue import Write, WriteQueue
from tests.cache.redis.opening import Clock
from tests.cache.redis_cluster import RedisCluster
from tests.cache.redis_server import RedisServer
from tests.cache.shared_tier import SharedTier, Store
from tests.cache.values import same

VALUE = {"x": np.arange(3)}
IN_PARTS = {"x": np.arange(2**18, dtype=np.uint8)}
TOO_LARGE = {"x": np.zeros(2**20, np.uint8)}


class Processes:
    """Tiers of two processes over one store. `settle` returns when what one has written is there; `lose` ends every claim that
    stands, as eviction does, and `run_out`, as time does."""

    def __init__(
        self, one: Tier, two: Tier, settle: Callable[[], None], lose: Callable[[], None], run_out: Callable[[], None]
    ) -> None:
        self.one, self.two = TieredCache([MemoryTier(2**20), one]), TieredCache([MemoryTier(2**20), two])
        self.tiers = (one, two)
        self.settle, self.lose, self.run_out = settle, lose, run_out


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisCluster]:
    made = RedisCluster(tmp_path_factory.mktemp("cluster"))
    yield made
    made.kill()


@pytest.fixture(params=["fake", "redis", "redis cluster"])
def both(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Processes]:
    if request.param == "fake":
        store = Store()

        def pass_time() -> None:
            store.now += 60

        yield Processes(SharedTier(store), SharedTier(store), lambda: None, store.claims.clear, pass_time)
        return
    is_cluster = request.param == "redis cluster"
    nodes = request.getfixturevalue("cluster").nodes if is_cluster else [RedisServer(tmp_path).start()]
    clock = Clock()
    one, two = (
        RedisTier(nodes[0].url, cluster=is_cluster, part_bytes=2**16, max_value_bytes=2**19, clock=clock) for _ in range(2)
    )

    def flush() -> None:
        assert one.flush(10)
        assert two.flush(10)

    def expire() -> None:
        for node in nodes:
            with node.client() as client:
                for key in client.keys("*"):
                    client.pexpire(key, 1)
                while client.dbsize():
                    time.sleep(0.002)  # the server's clock

    def expire_in_time() -> None:
        expire()
        clock.now += 60

    yield Processes(one, two, flush, expire, expire_in_time)
    one.close()
    two.close()
    for node in nodes:
        if is_cluster:
            with node.client() as client:
                client.flushall()
        else:
            node.kill()


def claimed(cache: TieredCache, key: str = "k") -> Claim:
    answer = cache.get_or_claim(key)
    assert isinstance(answer, Claim)
    return answer


def test_who_comes_first_makes_it_and_the_others_see_so(both: Processes) -> None:
    assert all(isinstance(tier, ClaimingTier) for tier in both.tiers)
    assert claimed(both.one).key == "k"
    assert both.two.get_or_claim("k") == both.one.get_or_claim("k") == BeingMade()


def test_a_claim_is_no_value_and_no_damaged_one(both: Processes) -> None:
    claimed(both.one)
    assert both.two.get_many(["k"]) == {}
    assert both.two.stats()["redis"].corrupt == 0
    assert both.two.get_or_claim("k") == BeingMade()


@pytest.mark.parametrize("value", [VALUE, IN_PARTS], ids=["small", "in parts"])
def test_the_value_takes_the_place_of_its_claim(both: Processes, value: Arrays) -> None:
    claim = claimed(both.one)
    both.one.put("k", value)
    both.one.not_kept(claim)  # without effect by now
    both.one.let_go(claim)
    both.one.renew_claims()
    both.settle()
    answer = both.two.get_or_claim("k")
    assert isinstance(answer, Found)
    assert (answer.tier, same(answer.value, value)) == ("redis", True)
    again = both.two.get_or_claim("k")
    assert isinstance(again, Found)
    assert again.tier == "memory"


def test_what_is_let_go_of_is_for_the_next_one(both: Processes) -> None:
    claim = claimed(both.one)
    both.one.let_go(claim)
    both.one.let_go(claim)
    both.settle()
    claimed(both.two)


def test_a_claim_that_nobody_renews_runs_out(both: Processes) -> None:
    claimed(both.one)
    both.run_out()
    claimed(both.two)


def test_a_claim_that_is_renewed_stands_also_after_it_was_lost(both: Processes) -> None:
    claimed(both.one)
    both.lose()
    both.one.renew_claims()
    both.settle()
    assert both.two.get_or_claim("k") == BeingMade()


@pytest.mark.parametrize("end", ["renew", "let go", "not kept"])
def test_who_slept_until_its_claim_had_run_out_leaves_alone_what_is_there_by_now(both: Processes, end: str) -> None:
    claim = claimed(both.one)
    both.run_out()
    both.two.put("k", VALUE)
    both.settle()
    match end:
        case "renew":
            both.one.renew_claims()
        case "let go":
            both.one.let_go(claim)
        case "not kept":
            both.one.not_kept(claim)
    both.settle()
    assert isinstance(both.one.get_or_claim("k"), Found)


@pytest.mark.parametrize("end", [HeldClaims.let_go, HeldClaims.not_kept])
def test_what_is_written_late_of_a_claim_is_not_sent_unless_it_was_renewed_in_time(
    end: Callable[[HeldClaims, Claim], None],
) -> None:
    clock, writes = Clock(), WriteQueue(2**20)
    claims = HeldClaims(writes, "me", clock)
    late, renewed = (claims.outcome(key, b"OK", b"", sent_at=clock.now) for key in ("late", "renewed"))
    assert isinstance(late, Claim)
    assert isinstance(renewed, Claim)
    claims.renew()
    end(claims, late)
    end(claims, renewed)
    waiting = writes.take(2**20)
    clock.now += CLAIM_S - 1
    (renewal,) = [write for write in claims.due(waiting[:2]) if write.key == "renewed"]
    claims.written(renewal, sent_at=clock.now)
    clock.now += 1
    value = Write("late", b"a value")
    assert claims.due([*waiting, value]) == [waiting[1], waiting[3], value]
    clock.now += CLAIM_S - 1
    assert claims.due([*waiting, value]) == [value]


def test_what_was_made_and_is_not_kept_is_for_everyone_to_make(both: Processes) -> None:
    for tier in both.tiers:
        if isinstance(tier, SharedTier):
            tier.keeps = False
    claim = claimed(both.one)
    both.one.put("k", TOO_LARGE)
    both.one.not_kept(claim)
    both.settle()
    assert both.two.get_or_claim("k") is both.one.get_or_claim("k") is None


def test_of_many_at_once_one_claims(both: Processes) -> None:
    def ask(number: int) -> object:
        return (both.one if number % 2 else both.two).get_or_claim("k")

    with ThreadPoolExecutor(16) as threads:
        answers = list(threads.map(ask, range(64)))
    assert sum(isinstance(answer, Claim) for answer in answers) == 1
    assert answers.count(BeingMade()) == 63


def test_claims_to_other_keys_are_other_claims(both: Processes) -> None:
    one, other = claimed(both.one, "k"), claimed(both.two, "l")
    both.one.let_go(one)
    both.one.let_go(other)  # not its own
    both.settle()
    claimed(both.two, "k")
    assert both.one.get_or_claim("l") == BeingMade()


def test_without_a_tier_that_claims_everyone_makes_what_is_missing() -> None:
    cache = TieredCache([MemoryTier(2**20)])
    assert cache.get_or_claim("k") is None
    cache.put("k", VALUE)
    assert isinstance(cache.get_or_claim("k"), Found)


# ---- Redis alone ----


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path).start()
    yield server
    server.kill()


@pytest.fixture
def tier(server: RedisServer) -> Iterator[RedisTier]:
    tier = RedisTier(server.url)
    yield tier
    tier.close()


def test_a_claim_takes_one_round_trip_and_leaves_nothing_beside_the_value(server: RedisServer, tier: RedisTier) -> None:
    with server.client() as client:
        assert isinstance(tier.get_or_claim("k"), Claim)
        assert client.keys("*") == [stored_as("k").encode()]
        assert 0 < client.pttl(stored_as("k")) <= CLAIM_MS
        tier.put_many({"k": VALUE})
        assert tier.flush(10)
        assert client.keys("*") == [stored_as("k").encode()]
        assert client.pttl(stored_as("k")) == -1  # the value's own time
        calls = client.info("commandstats")
    assert (calls["cmdstat_set"]["calls"], calls["cmdstat_getrange"]["calls"]) == (2, 1)


def test_a_server_that_is_away_or_refuses_to_write_lets_everyone_make_it(server: RedisServer, tier: RedisTier) -> None:
    with server.client() as client:
        client.config_set("maxmemory-policy", "noeviction")
        client.config_set("maxmemory", "1")
    assert tier.get_or_claim("k") is None
    server.kill()
    assert tier.get_or_claim("k") is None


def test_what_a_stranger_writes_delays_and_is_believed_in_nothing_else(server: RedisServer, tier: RedisTier) -> None:
    with server.client() as client:
        for forged in (MARK, MARK + b"\xff" * 100, MARK + b"making\0" + b"x" * 2**20):
            client.set(stored_as("k"), forged)
            assert tier.get_or_claim("k") == BeingMade()
            assert tier.get_many(["k"]) == {}
        client.set(stored_as("k"), MARK + b"not kept\0")
        assert tier.get_or_claim("k") is None
        client.delete(stored_as("k"))
        client.lpush(stored_as("k"), "of another type")
        assert tier.get_or_claim("k") is None


def test_closed_it_claims_nothing(tier: RedisTier) -> None:
    tier.close()
    assert tier.get_or_claim("k") is None

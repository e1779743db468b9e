"""The Redis tier when things go wrong: misses and counters, never errors, never for long; and right again when Redis is."""

import logging
import re
import socket
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from cache import codec
from cache.breaker import Breaker
from cache.codec import BFLOAT16, FORMAT_VERSION, encode
from cache.redis import redis_tier
from cache.redis.redis_connection import Patience
from cache.redis.redis_tier import RedisTier, stored_as
from cache.tier import Label
from tests.cache.redis_server import RedisServer
from tests.cache.values import floats, same

A = {"x": np.arange(8, dtype=np.float32)}


class Clock:
    """Turned by hand."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    made = RedisServer(tmp_path)
    yield made
    made.kill()


@pytest.fixture
def clock() -> Clock:
    return Clock()


Open = Callable[..., RedisTier]


@pytest.fixture
def open_tier(server: RedisServer, clock: Clock) -> Iterator[Open]:
    made: list[RedisTier] = []

    def open_one(**options: object) -> RedisTier:
        settings = {"breaker": Breaker(3, 5), "clock": clock} | options
        made.append(RedisTier(server.url, **settings))  # type: ignore[arg-type]
        return made[-1]

    yield open_one
    for tier in made:
        tier.close()


def put(tier: RedisTier, key: str = "a") -> None:
    tier.put_many({key: A})
    assert tier.flush(30)


# ---- a server that is gone ----


def test_without_a_server_everything_is_a_miss_and_nothing_fails(open_tier: Open) -> None:
    tier = open_tier()
    put(tier)
    tier.delete(["a"])
    assert tier.get_many(["a", "b"]) == {}
    stats = tier.stats()
    assert (stats.hits, stats.misses, stats.dropped, stats.entries, stats.bytes) == (0, 2, 1, 0, 0)
    assert stats.errors > 0


def test_a_server_that_appears_later_is_picked_up(server: RedisServer, open_tier: Open, clock: Clock) -> None:
    tier = open_tier()
    for _ in range(5):
        tier.get_many(["a"])
    server.start()
    assert tier.get_many(["a"]) == {}  # still pausing
    clock.now += 5
    assert tier.get_many(["a"]) == {}  # the trial
    put(tier)
    assert same(tier.get_many(["a"])["a"], A)


def test_a_server_killed_in_use_gives_misses_and_is_picked_up_when_it_is_back(
    server: RedisServer, open_tier: Open, clock: Clock
) -> None:
    server.start()
    tier = open_tier()
    put(tier)
    assert tier.get_many(["a"])
    server.kill()
    assert [tier.get_many(["a"]) for _ in range(5)] == [{}] * 5
    put(tier)
    assert tier.stats().errors == 3  # then the breaker was open, and nobody asked any more
    assert (tier.stats().opened, tier.stats().is_down) == (1, True)
    server.start()
    clock.now += 5
    assert tier.get_many(["a"]) == {}
    put(tier)
    assert same(tier.get_many(["a"])["a"], A)


def test_a_server_restarted_between_two_calls_is_not_even_noticed(server: RedisServer, open_tier: Open) -> None:
    server.start()
    tier = open_tier()
    put(tier)
    server.kill()
    server.start()
    assert tier.get_many(["a"]) == {}
    put(tier)
    assert tier.get_many(["a"])


def test_writes_alone_find_a_server_that_is_back(server: RedisServer, open_tier: Open, clock: Clock) -> None:
    tier = open_tier()
    for _ in range(5):
        put(tier)
    server.start()
    clock.now += 5
    put(tier, "b")
    assert set(tier.get_many(["a", "b"])) == {"b"}


# ---- a server that hangs ----


def test_a_server_that_hangs_delays_only_the_first_few(server: RedisServer, open_tier: Open) -> None:
    server.start()
    tier = open_tier(patience=Patience(timeout_s=0.05))
    put(tier)
    server.freeze()
    assert [tier.get_many(["a"]) for _ in range(1000)] == [{}] * 1000  # 1000 timeouts would take 50 seconds
    assert tier.stats().errors == 3
    server.thaw()


def test_a_server_that_hangs_never_delays_a_put(server: RedisServer, open_tier: Open) -> None:
    server.start()
    tier = open_tier(queue_bytes=1_000_000, max_value_bytes=200_000, patience=Patience(timeout_s=0.2))
    put(tier)
    server.freeze()
    for number in range(20):
        tier.put_many({str(number): {"x": floats(150_000)}})
    assert tier.stats().dropped >= 20 - 1_000_000 // 150_000
    server.thaw()


def test_a_hanging_server_does_not_keep_close_from_returning(server: RedisServer, open_tier: Open) -> None:
    server.start()
    tier = open_tier(patience=Patience(timeout_s=0.05))
    put(tier)
    server.freeze()
    tier.put_many({"b": A})
    tier.close()
    assert tier.get_many(["a"]) == {}


def test_a_read_that_trickles_is_given_up_with_what_has_come(server: RedisServer, open_tier: Open) -> None:
    """Every look at the clock makes a second pass, so that the second round trip is already too late."""
    server.start()
    ticks = iter(range(1_000_000))
    tier = open_tier(clock=lambda: float(next(ticks)), patience=Patience(timeout_s=2))
    tier.put_many({str(number): A for number in range(200)})
    tier.flush(30)
    assert len(tier.get_many([str(number) for number in range(200)])) == 64
    assert tier.stats().errors == 0


@pytest.mark.parametrize(
    "answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"$-7\r\n", b"*2\r\n$3\r\nabc", b"$99999999\r\nabc", b""]
)
def test_a_server_that_is_no_redis_gives_misses(answer: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=_answer_all, args=(listener, answer), daemon=True)
        thread.start()
        tier = RedisTier(f"redis://127.0.0.1:{listener.getsockname()[1]}", patience=Patience(timeout_s=0.1))
        put(tier)
        assert tier.get_many(["a"]) == {}
        assert tier.stats().errors > 0
        tier.close()
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def _answer_all(listener: socket.socket, answer: bytes) -> None:
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        with connection:
            connection.settimeout(5)
            try:
                while connection.recv(65536):
                    connection.sendall(answer or b"\x00")
            except OSError:
                continue


def test_a_server_that_was_flushed_is_a_miss_and_nothing_else(server: RedisServer, open_tier: Open) -> None:
    server.start()
    tier = open_tier()
    put(tier)
    with server.client() as client:
        client.flushall()
    assert tier.get_many(["a"]) == {}
    put(tier)
    assert tier.get_many(["a"])
    assert (tier.stats().errors, tier.stats().opened, tier.stats().misses) == (0, 0, 1)


def test_threads_go_on_while_the_server_is_killed_frozen_flushed_and_started_again(server: RedisServer) -> None:
    """Whatever is found is right, and nothing is raised; once it answers again, everything is found again."""
    server.start()
    tier = RedisTier(server.url, patience=Patience(timeout_s=0.1), breaker=Breaker(3, 0.05), part_bytes=20_000)
    wrong: list[object] = []
    rounds, stop = [0] * 4, threading.Event()

    def work(number: int) -> None:
        while not stop.is_set():
            for key in "0123":
                size = 4000 if key < "2" else 50_000  # in parts
                tier.put_many({key: {"x": floats(size, float(key))}}, Label(key, "seal"))
                found = tier.get_many([key], Label(key, "seal"))
                wrong.extend(value for value in found.values() if not same(value, {"x": floats(size, float(key))}))
            rounds[number] += 1

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()

    def go_on(count: int = 3) -> None:
        """Until every thread has gone round a few more times: none hangs."""
        wanted = [done + count for done in rounds]
        while any(done < goal for done, goal in zip(rounds, wanted, strict=True)):
            stop.wait(0.001)

    go_on()
    for begin, end in ((server.kill, server.start), (server.freeze, server.thaw)):
        opened = tier.stats().opened
        begin()
        while tier.stats().opened == opened:
            go_on(1)
        assert tier.stats().is_down
        end()
        while tier.stats().is_down:
            go_on(1)
    with server.client() as client:
        client.flushall()
    hits = tier.stats().hits
    while tier.stats().hits < hits + 100:
        go_on(1)
    stop.set()
    for thread in threads:
        thread.join()
    tier.close()
    assert not wrong
    assert tier.stats().corrupt == 0


# ---- damage ----


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-1],
        lambda data: data[:40] + bytes([data[40] ^ 1]) + data[41:],
        lambda data: b"\x80\x04K\x01.",
        lambda data: encode("another key", A),
        lambda data: encode("a", {"x": np.array([np.nan], np.float32)}),
        lambda data: encode("a", {"x": np.array([0x7F80], np.uint16).view(BFLOAT16)}),
        lambda data: encode("a", A, "a seal"),
        lambda data: data + bytes(2**24),
    ],
    ids=["cut off", "flipped bit", "pickle", "another key's", "NaN", "infinite", "another seal's", "endless"],
)
def test_a_damaged_value_is_missed_counted_and_deleted(
    server: RedisServer, open_tier: Open, damage: Callable[[bytes], bytes], caplog: pytest.LogCaptureFixture
) -> None:
    server.start()
    tier = open_tier()
    put(tier)
    with server.client() as client:
        stored = client.get(stored_as("a"))
        assert isinstance(stored, bytes)
        client.set(stored_as("a"), damage(stored))
        assert tier.get_many(["a"]) == {}
        assert tier.flush(30)
        assert not client.exists(stored_as("a"))
    assert (tier.stats().corrupt, tier.stats().misses) == (1, 1)
    assert "damaged" in caplog.text
    put(tier)
    assert tier.get_many(["a"])


def test_a_key_of_another_redis_type_is_a_miss_and_an_error(server: RedisServer, open_tier: Open) -> None:
    server.start()
    tier = open_tier()
    with server.client() as client:
        client.lpush(stored_as("a"), "x")
    put(tier, "b")
    assert set(tier.get_many(["a", "b"])) == {"b"}
    assert (tier.stats().errors, tier.stats().misses) == (1, 1)


@pytest.mark.parametrize(
    "forged", [b"", encode("a", A), encode("a", A, "theirs")], ids=["empty", "unsealed", "another seal's"]
)
def test_who_can_write_to_redis_but_has_no_seal_is_not_believed(server: RedisServer, open_tier: Open, forged: bytes) -> None:
    server.start()
    tier, label = open_tier(), Label("words", "ours")
    with server.client() as client:
        client.set(stored_as("a"), forged)
        assert tier.get_many(["a"], label) == {}
    tier.put_many({"a": A}, label)
    assert tier.flush(30)
    assert same(tier.get_many(["a"], label)["a"], A)


def test_damage_without_end_is_told_now_and_then(
    server: RedisServer, open_tier: Open, caplog: pytest.LogCaptureFixture
) -> None:
    server.start()
    tier = open_tier()
    with server.client() as client:
        for number in range(100):
            client.set(stored_as(str(number)), b"no value")
    for number in range(100):
        tier.get_many([str(number)])
    assert tier.stats().corrupt == 100
    assert len([record for record in caplog.records if "damaged" in record.message]) == 7  # 1, 2, 4, ... 64


def test_no_more_of_a_value_is_read_than_it_may_have(server: RedisServer, open_tier: Open) -> None:
    """Whoever can write to Redis can't have us take the memory for what they wrote."""
    server.start()
    tier = open_tier(part_bytes=100_000)
    with server.client() as client:
        client.set(stored_as("a"), bytes(2**24))
        tracemalloc.start()
        try:
            assert tier.get_many(["a"]) == {}
            assert tracemalloc.get_traced_memory()[1] < 2**22
        finally:
            tracemalloc.stop()


# ---- values in parts ----


LARGE: dict[str, NDArray[Any]] = {"x": floats(100_000), "y": np.arange(7)}


def stored(server: RedisServer) -> set[str]:
    with server.client() as client:
        return {key.decode() for key in client.keys("*")}


@pytest.mark.parametrize("seal", ["", "ours"])
def test_a_large_value_goes_in_parts_and_comes_back_whole(server: RedisServer, open_tier: Open, seal: str) -> None:
    server.start()
    tier, label = open_tier(part_bytes=30_000, ttl_s=1000), Label("pages", seal)
    tier.put_many({"large": LARGE, "small": A}, label)
    assert tier.flush(30)
    found = tier.get_many(["small", "large"], label)
    assert same(found["large"], LARGE)
    assert same(found["small"], A)
    keys = stored(server)
    assert {stored_as("large"), stored_as("small")} < keys
    assert len(keys) == 2 + 4
    with server.client() as client:
        assert all(client.strlen(key) <= 30_000 for key in keys)
        assert all(0 < client.pttl(key) <= 1_000_000 for key in keys)
    assert (tier.stats().puts, tier.stats().corrupt, tier.stats().dropped) == (2, 0, 0)


def test_what_lacks_a_part_is_missed_and_leaves_nothing_behind(server: RedisServer, open_tier: Open) -> None:
    server.start()
    tier = open_tier(part_bytes=30_000)
    tier.put_many({"large": LARGE})
    assert tier.flush(30)
    part = sorted(stored(server))[-1]
    with server.client() as client:
        client.delete(part)
        assert tier.holds(["large"]) == {"large"}  # a hint
        assert tier.get_many(["large"]) == {}
        assert tier.flush(30)
        assert stored(server) == set()
    assert (tier.stats().misses, tier.stats().corrupt, tier.stats().errors) == (1, 0, 0)


def test_a_part_that_was_exchanged_for_another_values_is_noticed(server: RedisServer, open_tier: Open) -> None:
    server.start()
    tier = open_tier(part_bytes=30_000)
    tier.put_many({"large": LARGE, "other": {"x": floats(100_000, 3), "y": np.arange(7)}})
    assert tier.flush(30)
    ours, theirs = (sorted(key for key in stored(server) if f":{name}." in key) for name in ("large", "other"))
    with server.client() as client:
        client.copy(theirs[1], ours[1], replace=True)
    assert set(tier.get_many(["large", "other"])) == {"other"}
    assert tier.stats().corrupt == 1


def test_a_large_value_on_a_full_server_is_one_value_lost(tmp_path: Path) -> None:
    full = RedisServer(tmp_path, maxmemory="2mb", maxmemory_policy="noeviction").start()
    tier = RedisTier(full.url, part_bytes=300_000)
    tier.put_many({"large": {"x": floats(8_000_000)}}, Label("pages"))
    assert tier.flush(30)
    assert tier.get_many(["large"]) == {}
    assert (tier.stats().dropped, tier.stats().kinds["pages"].dropped) == (1, 1)
    tier.close()
    full.kill()


# ---- bounds ----


def test_a_value_over_the_bound_is_not_sent(server: RedisServer, open_tier: Open) -> None:
    server.start()
    tier = open_tier(max_value_bytes=1000)
    tier.put_many({"fits": {"x": floats(1000)}, "big": {"x": floats(1004)}})
    assert tier.flush(30)
    assert set(tier.get_many(["fits", "big"])) == {"fits"}
    assert (tier.stats().puts, tier.stats().dropped) == (1, 1)


def test_values_expire_where_a_time_to_live_is_set(server: RedisServer, open_tier: Open) -> None:
    server.start()
    put(open_tier(ttl_s=100.5), "expires")
    put(open_tier(), "stays")
    with server.client() as client:
        left = client.pttl(stored_as("expires"))
        assert isinstance(left, int)
        assert 0 < left <= 100_500
        assert client.pttl(stored_as("stays")) == -1


def test_each_kind_of_value_may_live_as_long_as_it_is_told(server: RedisServer, open_tier: Open) -> None:
    server.start()
    tier = open_tier(ttl_s=100, ttl_s_of={"pages": 10, "pixels": 1000})
    for kind in ("pages", "pixels", "features"):
        tier.put_many({kind: A}, Label(kind))
    assert tier.flush(30)
    with server.client() as client:
        left = [client.pttl(stored_as(kind)) for kind in ("pages", "features", "pixels")]
    assert 0 < left[0] <= 10_000 < left[1] <= 100_000 < left[2] <= 1_000_000


def test_namespaces_do_not_see_each_other(server: RedisServer, open_tier: Open) -> None:
    server.start()
    put(open_tier(namespace="ours"))
    assert open_tier(namespace="theirs").get_many(["a"]) == {}
    with server.client() as client:
        assert client.keys("*") == [stored_as("a", "ours").encode()]


@pytest.mark.parametrize("newer_reads", [True, False])
def test_replicas_of_two_formats_leave_each_others_values_alone(
    server: RedisServer, open_tier: Open, monkeypatch: pytest.MonkeyPatch, newer_reads: bool
) -> None:
    def use(version: int) -> None:
        for module in (codec, redis_tier):
            monkeypatch.setattr(module, "FORMAT_VERSION", version)

    server.start()
    tier = open_tier()
    put(tier)
    use(FORMAT_VERSION + (1 if newer_reads else -1))
    assert tier.get_many(["a"]) == {}
    tier.flush(30)
    use(FORMAT_VERSION)
    assert same(tier.get_many(["a"])["a"], A)
    assert tier.stats().corrupt == 0


def test_two_tiers_on_one_server_share_values(server: RedisServer, open_tier: Open) -> None:
    server.start()
    put(open_tier())
    assert same(open_tier().get_many(["a"])["a"], A)


def test_a_full_server_that_refuses_is_counted_and_reads_go_on(server: RedisServer, tmp_path: Path) -> None:
    full = RedisServer(tmp_path, maxmemory="2mb", maxmemory_policy="noeviction").start()
    tier = RedisTier(full.url)
    put(tier)
    for number in range(4):
        tier.put_many({str(number): {"x": floats(1_000_000)}})
        assert tier.flush(30)
    assert tier.get_many(["a"])
    stats = tier.stats()
    assert stats.errors > 0
    assert stats.dropped == stats.errors
    tier.close()
    full.kill()


def test_a_full_server_that_evicts_says_how_often(server: RedisServer, tmp_path: Path) -> None:
    small = RedisServer(tmp_path, maxmemory="4mb").start()
    tier = RedisTier(small.url)
    for number in range(12):
        tier.put_many({str(number): {"x": floats(1_000_000)}})
        assert tier.flush(30)
    assert tier.stats().evictions > 0
    assert tier.stats().errors == 0
    tier.close()
    small.kill()


# ---- words ----


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"maxmemory": "64mb", "maxmemory_policy": "noeviction"}, ["CONFIG SET maxmemory-policy allkeys-lfu"]),
        ({"maxmemory": "64mb", "maxmemory_policy": "volatile-lru"}, ["CONFIG SET maxmemory-policy allkeys-lfu"]),
        ({"maxmemory": "0"}, ["CONFIG SET maxmemory 4gb"]),
        ({"save": "3600 1"}, ["CONFIG SET save ''"]),
        ({"appendonly": "yes"}, ["CONFIG SET appendonly no"]),
        ({"save": "60 1", "appendonly": "yes"}, ["CONFIG SET appendonly no", "CONFIG SET save ''"]),
        ({}, []),
    ],
)
def test_what_of_a_server_does_not_suit_a_cache_is_told_at_start_with_what_mends_it(
    tmp_path: Path, settings: dict[str, str], told: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    server = RedisServer(tmp_path, more=settings).start()
    tier = RedisTier(server.url)
    for key in "abc":
        put(tier, key)
    tier.close()  # joins the thread that warns
    warned = [record.message for record in caplog.records]
    assert len(warned) == len(told)
    assert all(f"redis-cli -s {tmp_path}/s.sock {command}" in message for command, message in zip(told, warned, strict=True))
    for message in warned:
        for command in re.findall(r"`redis-cli -s \S+ ([^`]*)`", message):
            with server.client() as client:
                client.execute_command(*command.split(" ")[:-1], command.split(" ")[-1].strip("'"))
    caplog.clear()
    tier = RedisTier(server.url)
    put(tier)
    tier.close()
    assert not caplog.records
    server.kill()


def test_a_server_that_comes_later_is_looked_at_then(
    server: RedisServer, open_tier: Open, clock: Clock, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    late = RedisServer(tmp_path, maxmemory_policy="noeviction")
    tier = RedisTier(late.url, breaker=Breaker(3, 5), clock=clock)
    put(tier)
    late.start()
    clock.now += 5
    put(tier)
    tier.close()
    late.kill()
    assert len([record for record in caplog.records if "noeviction" in record.message]) == 1


def test_a_lost_server_is_told_once_and_so_is_its_return(
    server: RedisServer, open_tier: Open, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    tier = open_tier()
    for _ in range(20):
        tier.get_many(["a"])
        clock.now += 1
    server.start()
    clock.now += 5
    tier.get_many(["a"])
    told = [record.message for record in caplog.records]
    assert [message for message in told if "does not answer" in message] == told[:1]
    assert ["answers again" in message for message in told[1:]] == [True]
    assert (tier.stats().opened, tier.stats().is_down) == (1, False)


def test_a_password_is_never_logged(caplog: pytest.LogCaptureFixture) -> None:
    tier = RedisTier("redis://user:secret@127.0.0.1:1")
    for _ in range(5):
        tier.get_many(["a"])
    tier.close()
    assert "127.0.0.1:1" in caplog.text
    assert "secret" not in caplog.text


@pytest.mark.parametrize("url", ["", "http://localhost", "localhost:6379"])
def test_a_wrong_url_is_told_at_once(url: str) -> None:
    with pytest.raises(ValueError, match="redis://"):
        RedisTier(url)


def test_patience_grows_with_size() -> None:
    assert Patience(1, 10e6).for_bytes(20_000_000) == pytest.approx(3)


def test_threads_end_with_the_tier(server: RedisServer) -> None:
    server.start()
    before = threading.active_count()
    tier = RedisTier(server.url)
    put(tier)
    tier.close()
    deadline = time.monotonic() + 30
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() == before

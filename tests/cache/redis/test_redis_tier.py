"""The Redis tier when its server is gone, hangs or is full: misses and counters, never errors, never for long; and right again after."""

import socket
import threading
import time
from pathlib import Path

import pytest

from cache import codec
from cache.breaker import Breaker
from cache.codec import FORMAT_VERSION
from cache.redis import redis_tier
from cache.redis.redis_connection import Patience
from cache.redis.redis_tier import RedisTier, stored_as
from cache.tier import Label
from tests.cache.redis.opening import A, Clock, Open, put
from tests.cache.redis_server import RedisServer
from tests.cache.values import floats, same


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

    threads = [threading.Thread(target=work, args=(number,), daemon=True) for number in range(4)]
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
        while (
            tier.stats().opened == opened or not tier.stats().is_down
        ):  # an answer from before may be heard late, and close it again
            go_on(1)
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

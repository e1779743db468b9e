"""What every store of kept values promises (`cache/store.py`), asked of memory, of Redis on a unix socket, and of Redis over TCP."""

from collections.abc import Callable, Iterator

import pytest

from cache.redis.redis_store import RedisStore
from cache.store import ADDED, MemoryStore, Store, StoreDown

MiB = 2**20
PART_BYTES = 1000


def in_redis(url: str, request: pytest.FixtureRequest) -> RedisStore:
    return RedisStore(url, namespace=request.node.name, part_bytes=PART_BYTES)


MAKERS: dict[str, Callable[[pytest.FixtureRequest], Store]] = {
    "memory": lambda request: MemoryStore(64 * MiB),
    "redis over unix": lambda request: in_redis(request.getfixturevalue("embedded_url"), request),
    "redis over tcp": lambda request: in_redis(request.getfixturevalue("tcp_url"), request),
}


@pytest.fixture(params=list(MAKERS))
def store(request: pytest.FixtureRequest) -> Iterator[Store]:
    made = MAKERS[request.param](request)
    yield made
    made.close()


@pytest.mark.parametrize("size", [0, 1, PART_BYTES - 1, PART_BYTES, PART_BYTES + 1, 10 * PART_BYTES + 7])
def test_what_was_written_is_read(store: Store, size: int) -> None:
    data = bytes(index % 251 for index in range(size))
    assert store.write("a", data, ttl_s=60)
    assert store.read("a") == data
    assert store.read("b") is None
    assert store.write("a", b"other", ttl_s=60)
    assert store.read("a") == b"other"
    store.delete("a")
    assert store.read("a") is None
    store.delete("a")


@pytest.mark.parametrize("size", [3, 5 * PART_BYTES])
def test_what_is_written_only_where_nothing_stands_is_written_once(store: Store, size: int) -> None:
    assert store.write("a", b"a" * size, ttl_s=60, if_absent=True)
    assert not store.write("a", b"b" * size, ttl_s=60, if_absent=True)
    assert store.read("a") == b"a" * size


@pytest.mark.parametrize("size", [3, 5 * PART_BYTES])
def test_what_is_written_only_where_something_stands_does_not_bring_back_what_was_deleted(store: Store, size: int) -> None:
    assert not store.write("a", b"a" * size, ttl_s=60, if_present=True)
    assert store.read("a") is None
    assert store.write("a", b"1", ttl_s=60)
    assert store.write("a", b"b" * size, ttl_s=60, if_present=True)
    assert store.read("a") == b"b" * size
    store.delete("a")
    assert not store.write("a", b"c" * size, ttl_s=60, if_present=True)
    assert store.read("a") is None


def test_what_has_no_time_left_is_gone(store: Store) -> None:
    store.write("a", b"1", ttl_s=60)
    assert store.renew("a", 0.001)
    assert wait_until(lambda: store.read("a") is None)
    assert not store.renew("a", 60)
    assert store.write("a", b"2", ttl_s=60, if_absent=True)


def test_a_list_is_in_the_order_in_which_time_ends(store: Store) -> None:
    for member, ttl_s in (("b", 30.0), ("c", 40.0), ("a", 20.0)):
        store.add("list", member, ttl_s=ttl_s)
    assert list(store.members("list")) == ["a", "b", "c"]
    store.add("list", "a", ttl_s=50)
    store.remove("list", "b")
    store.remove("list", "unknown")
    assert list(store.members("list")) == ["c", "a"]
    assert list(store.members("unknown")) == []
    store.add("list", "c", ttl_s=0.001)
    assert wait_until(lambda: list(store.members("list")) == ["a"])


def test_what_is_renewed_in_memory_stands_from_then_on() -> None:
    now = 0.0
    store = MemoryStore(1000, now=lambda: now)
    store.write("a", b"x", ttl_s=10)
    now = 9.0
    assert store.renew("a", 10)
    now = 18.0
    assert store.read("a") == b"x"
    now = 19.0
    assert not store.renew("a", 10)


def test_a_value_in_parts_is_renewed_in_all_of_them_or_not(tcp_url: str, request: pytest.FixtureRequest) -> None:
    store = in_redis(tcp_url, request)
    store.write("a", b"x" * 5000, ttl_s=60)
    (head,) = store._all(("GET", f"{request.node.name}:a"))
    assert isinstance(head, bytes)
    parts = [f"{request.node.name}:a:{head[-16:].hex()}:{part}" for part in range(5)]
    assert store._all(*(("EXISTS", name) for name in parts)) == [1] * 5
    assert store.renew("a", 600)
    left = store._all(*(("PTTL", name) for name in (f"{request.node.name}:a", *parts)))
    assert all(isinstance(ms, int) and 60_000 < ms <= 600_000 for ms in left)
    store._one("UNLINK", parts[3])
    assert not store.renew("a", 60)


def test_a_list_that_is_only_added_to_is_rid_of_what_is_over(tcp_url: str, request: pytest.FixtureRequest) -> None:
    now, at = 1_000_000.0, f"{request.node.name}:list"
    store = RedisStore(tcp_url, namespace=request.node.name, now=lambda: now)
    for member in range(3):
        store.add("list", str(member), ttl_s=20 + member)
    now += 21
    store.add("list", "new", ttl_s=20)
    assert store._one("ZRANGE", at, 0, -1) == [b"2", b"new"]


def test_lists_in_memory_that_nobody_reads_hold_no_more_than_stands() -> None:
    now = 0.0
    store = MemoryStore(1000, now=lambda: now)
    most = 0
    for number in range(20 * ADDED):
        store.add("busy", str(number), ttl_s=10)
        store.add(f"list {number}", "a", ttl_s=10)
        now += 1
        most = max(most, sum(map(len, store._indexes.values())))
    assert most <= 2 * ADDED
    assert len(store.members("busy")) == 9


def test_memory_looks_for_what_is_over_no_more_often_than_it_pays() -> None:
    looks = 0

    def now() -> float:
        nonlocal looks
        looks += 1
        return 0.0

    store = MemoryStore(1000, now=now)
    for number in range(100 * ADDED):
        store.add(f"list {number}", "a", ttl_s=10)
    assert looks <= 4 * 100 * ADDED


def test_a_list_in_memory_whose_last_member_is_removed_is_gone() -> None:
    store = MemoryStore(1000)
    for number in range(10):
        store.add(f"list {number}", "a", ttl_s=10)
        store.add(f"list {number}", "b", ttl_s=10)
        store.remove(f"list {number}", "a")
        assert list(store.members(f"list {number}")) == ["b"]
        store.remove(f"list {number}", "b")
        store.remove(f"list {number}", "b")
    assert not store._indexes


def test_what_another_process_wrote_is_read(tcp_url: str, request: pytest.FixtureRequest) -> None:
    here, there = (RedisStore(tcp_url, namespace=request.node.name, part_bytes=PART_BYTES) for _ in range(2))
    here.write("a", b"x" * 5000, ttl_s=60)
    assert there.read("a") == b"x" * 5000
    assert (here.is_shared, MemoryStore(1000).is_shared) == (True, False)


@pytest.mark.parametrize("written", [b"", b"z", b"p", b"p" + bytes(28), b"p" + b"\xff" * 28])
def test_what_is_no_value_of_ours_is_none(tcp_url: str, request: pytest.FixtureRequest, written: bytes) -> None:
    store = RedisStore(tcp_url, namespace=request.node.name, part_bytes=PART_BYTES)
    store._one("SET", f"{request.node.name}:a", written)
    assert store.read("a") is None


def test_a_value_that_has_lost_a_part_is_none(tcp_url: str, request: pytest.FixtureRequest) -> None:
    store = RedisStore(tcp_url, namespace=request.node.name, part_bytes=PART_BYTES)
    store.write("a", b"x" * 5000, ttl_s=60)
    (head,) = store._all(("GET", f"{request.node.name}:a"))
    assert isinstance(head, bytes)
    store._one("UNLINK", f"{request.node.name}:a:{head[-16:].hex()}:3")
    assert store.read("a") is None


def test_a_server_that_is_not_there_is_told_of(tmp_path: object) -> None:
    store = RedisStore(f"unix://{tmp_path}/no.sock")
    with pytest.raises(StoreDown, match="doesn't answer"):
        store.read("a")


def test_a_server_that_refuses_is_told_of(tcp_url: str, request: pytest.FixtureRequest) -> None:
    store = RedisStore(tcp_url, namespace=request.node.name)
    store.add("list", "a", ttl_s=60)
    with pytest.raises(StoreDown, match="it refused: WRONGTYPE"):
        store.read("list")


def test_of_a_full_memory_who_keeps_the_most_makes_room() -> None:
    store = MemoryStore(4 * (512 + 100))
    for number in range(3):
        store.write(f"b{number}", b"x" * 100, ttl_s=60, owner="bob")
    store.write("a0", b"x" * 100, ttl_s=60, owner="ada")
    store.read("b0")
    store.write("a1", b"x" * 100, ttl_s=60, owner="ada")
    assert [store.read(key) is not None for key in ("a0", "a1", "b0", "b1", "b2")] == [True, True, True, False, True]
    store.write("large", b"x" * 10_000, ttl_s=60, owner="eve")
    assert [store.read(key) is not None for key in ("a0", "b0", "large")] == [False, False, True]


def wait_until(is_so: Callable[[], bool]) -> bool:
    """A server's clock is its own: asked until it has come so far, which takes it a millisecond."""
    return any(is_so() for _ in range(10_000))

"""Whoever runs a Redis sees how full it is and what a value is, never its numbers; and clears what is ours, nothing else."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from cache.codec import CorruptValue, encode
from cache.redis.embedded import EmbeddedRedis
from cache.redis.inspection import Inspection, RedisSilent
from cache.redis.redis_connection import Patience
from cache.redis.redis_link import client_of
from cache.redis.redis_tier import RedisTier, stored_as
from cache.tier import UNLABELLED, Label
from tests.cache.redis_cluster import RedisCluster
from tests.cache.redis_server import RedisServer
from tests.cache.values import floats

LABEL = Label("vision_features", "a secret")
SEALS = {"tenant b": "another", "tenant a": "a secret"}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    made = RedisServer(tmp_path).start()
    yield made
    made.kill()


@pytest.fixture
def instance(server: RedisServer) -> Iterator[Inspection]:
    made = Inspection(client_of(server.url, Patience()))
    yield made
    made.close()


def put(url: str, key: str, size: int = 4000, label: Label = LABEL, cluster: bool = False, ttl_s: float | None = None) -> None:
    tier = RedisTier(url, part_bytes=10_000, cluster=cluster, ttl_s=ttl_s)
    tier.put_many({key: {"x": floats(size), "grid": np.array([[1, 2, 3]])}}, label)
    assert tier.flush(30)
    tier.close()


def test_a_value_is_described(server: RedisServer, instance: Inspection) -> None:
    put(server.url, "a", ttl_s=100)
    for name in ("a", stored_as("a")):
        found = instance.look(name, SEALS)
        assert found is not None
        assert (found.description.kind, found.description.arrays) == (
            "vision_features",
            (("x", "<f4", (1000,)), ("grid", "<i8", (1, 3))),
        )
        assert (found.num_parts, found.check) == (0, "sound, of tenant a")
        assert found.num_bytes > 4000
        assert found.ttl_ms is not None
        assert 0 < found.ttl_ms <= 100_000


def test_a_value_in_parts_is_described_as_one(server: RedisServer, instance: Inspection) -> None:
    put(server.url, "a", 45_000)
    found = instance.look("a", SEALS)
    assert found is not None
    assert (found.num_parts, found.ttl_ms, found.check) == (5, None, "sound, of tenant a")
    with server.client() as client:
        client.delete(next(key for key in client.keys("*.1")))
    with pytest.raises(CorruptValue, match="part is missing"):
        instance.look("a", SEALS)


def test_no_more_is_read_of_a_part_than_the_head_says(server: RedisServer, instance: Inspection) -> None:
    put(server.url, "a", 45_000)
    with server.client() as client:
        for key in client.keys("*.?"):
            client.append(key, bytes(10**6))
        before = client.info("stats")["total_net_output_bytes"]
        with pytest.raises(CorruptValue, match="not as long as it was"):
            instance.look("a", SEALS)
        assert client.info("stats")["total_net_output_bytes"] - before < 10**6


def test_without_the_secret_a_value_is_sealed(server: RedisServer, instance: Inspection) -> None:
    put(server.url, "a")
    put(server.url, "open", label=UNLABELLED)
    checks = [instance.look(name, seals) for name, seals in (("a", {}), ("a", {"tenant b": "another"}), ("open", {}))]
    assert [found.check.partition(":")[0] for found in checks if found is not None] == [
        "sealed",
        "sealed, and not of tenant b",
        "sound; not sealed, so anybody may have written it",
    ]


def test_damage_is_told_and_nothing_is_nothing(server: RedisServer, instance: Inspection) -> None:
    assert instance.look("a", SEALS) is None
    with server.client() as client:
        client.set(stored_as("a"), b"no value")
        client.set(stored_as("b"), encode("b", {"x": floats(400)})[:-1] + b"!")
    with pytest.raises(CorruptValue):
        instance.look("a", SEALS)
    found = instance.look("b", SEALS)
    assert found is not None
    assert found.check.startswith("damaged: ")


def test_clearing_forgets_ours_and_nothing_else(server: RedisServer, instance: Inspection) -> None:
    put(server.url, "large", 45_000)
    with server.client() as client:
        client.mset({f"triptych:{number}": "x" for number in range(2500)})
        client.mset({"triptych": "x", "other:a": "x", "triptych2:a": "x"})
        assert instance.clear() == 2500 + 1 + 5
        assert set(client.keys("*")) == {b"triptych", b"other:a", b"triptych2:a"}
    assert instance.clear() == 0


def test_a_server_tells_how_full_it_is_and_what_does_not_suit(tmp_path: Path) -> None:
    server = RedisServer(tmp_path, maxmemory="32mb", maxmemory_policy="noeviction").start()
    put(server.url, "a")
    instance = Inspection(client_of(server.url, Patience()))
    (facts,) = instance.facts()
    assert (facts.where, facts.entries, facts.max_bytes, facts.policy) == (f"{tmp_path}/s.sock", 1, 2**25, "noeviction")
    assert facts.used_bytes is not None
    assert facts.used_bytes > 4000
    assert (facts.evictions, len(facts.warnings)) == (0, 1)
    assert "CONFIG SET maxmemory-policy allkeys-lfu" in facts.warnings[0]
    instance.close()
    server.kill()


def test_the_embedded_server_can_be_looked_at_and_cleared() -> None:
    """With no more than it allows everybody."""
    server = EmbeddedRedis(8 * 2**20)
    put(server.url, "a")
    instance = Inspection(client_of(server.url, Patience()))
    (facts,) = instance.facts()
    assert (facts.entries, facts.policy, facts.warnings) == (1, "allkeys-lfu", ())
    found = instance.look("a", SEALS)
    assert found is not None
    assert (found.ttl_ms, found.check) == (None, "sound, of tenant a")
    assert instance.clear() == 1
    instance.close()
    server.close()


def test_a_cluster_is_looked_at_and_cleared_node_by_node(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    cluster = RedisCluster(tmp_path)
    request.addfinalizer(cluster.kill)
    put(cluster.url, "a", 45_000, cluster=True)
    instance = Inspection(client_of(cluster.url, Patience(), cluster=True))
    assert sum(facts.entries or 0 for facts in instance.facts()) == 6
    found = instance.look("a", SEALS)
    assert found is not None
    assert found.check == "sound, of tenant a"
    assert instance.clear() == 6
    assert [facts.entries for facts in instance.facts()] == [0, 0, 0]
    instance.close()


def test_a_server_that_does_not_answer_is_told_without_its_password() -> None:
    instance = Inspection(client_of("redis://user:secret@127.0.0.1:1", Patience()))
    for ask in (instance.facts, instance.clear, lambda: instance.look("a", {})):
        with pytest.raises(RedisSilent, match=r"127\.0\.0\.1:1 does not answer") as silent:
            ask()
        assert "secret" not in str(silent.value)
    instance.close()

"""Redis as operators run it: with a password, an ACL user, TLS, as a Cluster, and Valkey; each a real server."""

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from redis.crc import key_slot

from cache.redis.embedded import server_program
from cache.redis.redis_connection import Patience
from cache.redis.redis_tier import RedisTier, stored_as
from cache.tier import Label
from tests.cache.redis_cluster import RedisCluster
from tests.cache.redis_server import RedisServer
from tests.cache.values import floats, same

needs_openssl = pytest.mark.skipif(
    shutil.which("openssl") is None or shutil.which("redis-server") is None,
    reason="certificates are made with openssl; of the servers here only the machine's redis-server has TLS",
)
LABEL = Label("features", "a secret")
ACL_RULES = "on >pass~word ~triptych:* +get +getrange +set +unlink +exists +info +dbsize"
"""All that a replica says of its own."""


def openssl(folder: Path, *words: str) -> None:
    subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)


def authority(folder: Path, name: str) -> None:
    options = ("-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1", "-subj", f"/CN={name}")
    openssl(folder, "req", *options, "-keyout", f"{name}.key", "-out", f"{name}.crt")


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a server that is called localhost, and of an authority that it isn't signed by."""
    folder = tmp_path_factory.mktemp("certificates")
    authority(folder, "ca")
    authority(folder, "stranger")
    openssl(
        folder, "req", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=server", "-keyout", "server.key", "-out", "server.csr"
    )
    (folder / "names").write_text("subjectAltName=DNS:localhost")
    signed = ("-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-days", "1", "-extfile", "names")
    openssl(folder, "x509", "-req", "-in", "server.csr", *signed, "-out", "server.crt")
    return folder


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., RedisServer]]:
    made: list[RedisServer] = []

    def start(**options: Any) -> RedisServer:
        made.append(RedisServer(tmp_path, **options).start())
        return made[-1]

    yield start
    for server in made:
        server.kill()


def remembers(url: str, **options: Any) -> None:
    """It does all that a tier does."""
    tier = RedisTier(url, part_bytes=100_000, ttl_s=1000, **options)
    values = {f"small {number}": {"x": np.arange(number + 1)} for number in range(20)} | {"large": {"x": floats(350_000)}}
    tier.put_many(values, LABEL)
    assert tier.flush(30)
    found = tier.get_many([*values, "nothing"], LABEL)
    assert found.keys() == values.keys()
    assert all(same(found[key], value) for key, value in values.items())
    assert tier.holds(["small 1", "nothing", "large"]) == {"small 1", "large"}
    tier.delete(["small 1"])
    assert tier.flush(30)
    assert tier.holds(["small 1", "small 2"]) == {"small 2"}
    stats = tier.stats()
    assert (stats.errors, stats.corrupt, stats.dropped, stats.opened) == (0, 0, 0, 0)
    assert (stats.hits, stats.misses, stats.puts) == (21, 1, 21)
    assert stats.entries == 19 + 1 + 4
    assert stats.bytes > 350_000
    tier.close()


def test_with_a_password(serve: Callable[..., RedisServer]) -> None:
    server = serve(tcp=True, requirepass="pass~word")
    remembers(f"redis://:pass~word@127.0.0.1:{server.port}/0")


def test_as_a_user_who_may_do_no_more_than_a_cache_asks(serve: Callable[..., RedisServer]) -> None:
    server = serve(tcp=True)
    with server.client() as client:
        client.execute_command("ACL SETUSER", "triptych", *ACL_RULES.split())
        client.execute_command("ACL SETUSER", "default", "off")
    remembers(f"redis://triptych:pass~word@127.0.0.1:{server.port}/0")
    tier = RedisTier(f"redis://triptych:pass~word@127.0.0.1:{server.port}/0", namespace="theirs")
    tier.put_many({"a": {"x": np.arange(3)}})
    assert tier.flush(30)
    assert tier.get_many(["a"]) == {}
    assert (tier.stats().dropped, tier.stats().errors) == (1, 2)
    tier.close()


def test_a_wrong_password_is_a_miss_and_is_not_told(
    serve: Callable[..., RedisServer], caplog: pytest.LogCaptureFixture
) -> None:
    server = serve(tcp=True, requirepass="pass~word")
    tier = RedisTier(f"redis://:wr0ng~word@127.0.0.1:{server.port}/0")
    assert [tier.get_many(["a"]) for _ in range(5)] == [{}] * 5
    assert tier.stats().is_down
    tier.close()
    assert "does not answer" in caplog.text
    assert "wr0ng" not in caplog.text


@pytest.mark.parametrize("kind", ["unix", "tcp"])
def test_on_valkey(serve: Callable[..., RedisServer], kind: str) -> None:
    server = serve(tcp=kind == "tcp", program=server_program())
    with server.client() as client:
        assert client.info("server").get("server_name") == "valkey"
    remembers(server.url)


@needs_openssl
def test_over_tls_with_a_user_and_a_password(serve: Callable[..., RedisServer], certificates: Path) -> None:
    server = serve(tls=certificates, requirepass="pass~word")
    remembers(server.url.replace("localhost", "default:pass~word@localhost"))


@needs_openssl
@pytest.mark.parametrize(
    ("place", "authority", "why"),
    [
        ("localhost", "stranger", "CERTIFICATE_VERIFY_FAILED"),
        ("localhost", None, "CERTIFICATE_VERIFY_FAILED"),
        ("127.0.0.1", "ca", "IP address mismatch"),
    ],
    ids=["signed by another", "signed by nobody known", "called something else"],
)
def test_a_server_that_cannot_show_who_it_is_gets_nothing(
    serve: Callable[..., RedisServer],
    certificates: Path,
    place: str,
    authority: str | None,
    why: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    server = serve(tls=certificates)
    options = f"?ssl_ca_certs={certificates}/{authority}.crt" if authority else ""
    tier = RedisTier(f"rediss://{place}:{server.port}{options}")
    for _ in range(5):
        tier.put_many({"a": {"x": np.arange(3)}})
        assert tier.flush(30)
    assert tier.get_many(["a"]) == {}
    tier.close()
    assert why in caplog.text
    with server.client() as client:
        assert client.dbsize() == 0


# ---- a cluster ----


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisCluster]:
    made = RedisCluster(tmp_path_factory.mktemp("cluster"))
    yield made
    made.kill()


def names(cluster: RedisCluster, node: int, count: int = 3) -> list[str]:
    """Of values that the node has."""
    found = (f"value {number}" for number in range(10_000) if cluster.node_of(stored_as(f"value {number}")) == node)
    return [next(found) for _ in range(count)]


def test_a_cluster_spreads_values_and_their_parts_over_its_nodes(cluster: RedisCluster) -> None:
    remembers(cluster.url, cluster=True)
    for node in cluster.nodes:
        with node.client() as client:
            assert client.dbsize() > 0
            client.flushall()


def test_a_cluster_is_found_by_any_of_its_nodes(cluster: RedisCluster) -> None:
    tier = RedisTier(cluster.nodes[2].url, cluster=True)
    for node in range(3):
        tier.put_many({key: {"x": np.arange(3)} for key in names(cluster, node)})
    assert tier.flush(30)
    assert len(tier.get_many([key for node in range(3) for key in names(cluster, node)])) == 9
    tier.close()


def test_what_has_moved_to_another_node_is_found_there(cluster: RedisCluster) -> None:
    tier = RedisTier(cluster.url, cluster=True)
    tier.put_many({"a": {"x": np.arange(3)}})
    assert tier.flush(30)
    at = cluster.node_of(stored_as("a"))
    to, (identity, slot) = (at + 1) % 3, (cluster.nodes[(at + 1) % 3], key_slot(stored_as("a").encode()))
    with identity.client() as client:
        name = client.execute_command("CLUSTER MYID")
    with cluster.nodes[at].client() as client:
        home = client.execute_command("CLUSTER MYID")
        client.delete(stored_as("a"))
    try:
        for node in (to, at, 3 - at - to):
            with cluster.nodes[node].client() as client:
                client.execute_command("CLUSTER SETSLOT", slot, "NODE", name)
        tier.put_many({"a": {"x": np.arange(5)}})
        assert tier.flush(30)
        assert same(tier.get_many(["a"])["a"], {"x": np.arange(5)})
        with cluster.nodes[to].client() as client:
            assert client.exists(stored_as("a"))
            client.delete(stored_as("a"))
        assert tier.stats().errors == 0
    finally:
        for node in (at, to, 3 - at - to):
            with cluster.nodes[node].client() as client:
                client.execute_command("CLUSTER SETSLOT", slot, "NODE", home)
        tier.close()


@pytest.mark.parametrize("how", ["kill", "freeze"])
def test_a_node_that_is_down_fails_its_own_values_only_and_is_picked_up_again(cluster: RedisCluster, how: str) -> None:
    tier = RedisTier(cluster.url, cluster=True, patience=Patience(timeout_s=0.3))
    wanted = {node: names(cluster, node) for node in range(3)}
    everything = [key for keys in wanted.values() for key in keys]
    tier.put_many({key: {"x": np.arange(3)} for key in everything})
    assert tier.flush(30)
    getattr(cluster.nodes[0], how)()
    for _ in range(3):  # until it is known
        tier.get_many(everything)
    try:
        assert set(tier.get_many(everything)) == {*wanted[1], *wanted[2]}
        assert not tier.stats().is_down
    finally:
        (cluster.nodes[0].start if how == "kill" else cluster.nodes[0].thaw)()
    found: set[str] = set()
    while len(found) < 9:
        tier.put_many({key: {"x": np.arange(3)} for key in wanted[0]})
        tier.flush(30)
        found = set(tier.get_many(everything))
    tier.close()


def test_a_large_value_outlasts_a_node_that_is_down_for_a_moment(cluster: RedisCluster) -> None:
    """Its head is where it is, some of its parts are not to be had for now."""
    (key,) = names(cluster, 1, 1)
    value = {"x": floats(350_000)}
    tier = RedisTier(cluster.url, cluster=True, part_bytes=10_000, patience=Patience(timeout_s=0.3))
    tier.put_many({key: value})
    assert tier.flush(30)
    cluster.nodes[2].freeze()
    try:
        assert tier.get_many([key]) == {}
        assert tier.flush(30)
    finally:
        cluster.nodes[2].thaw()
        tier.close()
    afterwards = RedisTier(cluster.url, cluster=True)
    assert same(afterwards.get_many([key])[key], value)
    afterwards.close()


def test_a_server_that_is_no_cluster_is_a_miss(serve: Callable[..., RedisServer], caplog: pytest.LogCaptureFixture) -> None:
    tier = RedisTier(serve(tcp=True).url, cluster=True)
    assert [tier.get_many(["a"]) for _ in range(5)] == [{}] * 5
    tier.close()
    assert "cluster support disabled" in caplog.text


def test_a_cluster_is_at_a_host() -> None:
    with pytest.raises(ValueError, match="unix"):
        RedisTier("unix:///nowhere", cluster=True)

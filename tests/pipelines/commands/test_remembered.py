"""`triptych cache`, as a person runs it."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from cache.codec import encode
from cache.redis.embedded import EmbeddedRedis
from cache.redis.redis_tier import RedisTier, stored_as
from cache.tier import Label
from pipelines.cli import app
from pipelines.commands.console import DEFAULT_CONFIG
from pipelines.settings.config_file import load
from pipelines.settings.private_redis import embedded_directory
from pipelines.settings.serve.specs import cache_spec, embedded_servers
from tests.cache.redis_cluster import RedisCluster
from tests.cache.redis_server import RedisServer
from tests.cache.values import floats

KEY = "ab" * 32


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[tuple[RedisServer, RedisServer]]:
    made = []
    for name in ("results", "pages"):
        (tmp_path / name).mkdir()
        made.append(RedisServer(tmp_path / name).start())
    yield made[0], made[1]
    for server in made:
        server.kill()


def config(tmp_path: Path, cache: dict[str, Any], **auth: Any) -> str:
    document = yaml.safe_load(DEFAULT_CONFIG.read_text())
    document["applications"][0]["args"] |= {"cache": cache, "auth": auth}
    path = tmp_path / "serve_config.yaml"
    path.write_text(yaml.safe_dump(document))
    return str(path)


@pytest.fixture
def path(tmp_path: Path, servers: tuple[RedisServer, RedisServer], monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("TRIPTYCH_TEST_PAGES", servers[1].url)
    kv = {"redis": {"url_env": "TRIPTYCH_TEST_PAGES"}}
    return config(tmp_path, {"redis": {"url": servers[0].url}, "kv": kv}, secret_env="TRIPTYCH_TEST_SECRET")


def said(*words: str, typed: str | None = None) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["cache", *words], input=typed)
    return result.exit_code, result.output


def put(server: RedisServer, key: str, label: Label) -> None:
    tier = RedisTier(server.url)
    tier.put_many({key: {"x": floats(4000)}}, label)
    assert tier.flush(30)
    tier.close()


def test_stats_show_both_instances(path: str, servers: tuple[RedisServer, RedisServer]) -> None:
    put(servers[1], KEY, Label("kv_page", "seal"))
    code, output = said("stats", "--config", path)
    assert code == 0
    rows = [line.split() for line in output.splitlines()]
    assert [row[0] for row in rows if row and row[0].startswith("cache.")] == ["cache.redis", "cache.kv.redis"]
    assert [row[1] for row in rows if row and row[0] == "entries"] == ["0", "1"]
    assert [row[1] for row in rows if row and row[0] == "policy"] == ["allkeys-lfu", "allkeys-lfu"]
    assert "cache.redis" not in said("stats", "--config", path, "--only", "kv")[1].replace("cache.kv.redis", "")


def test_clear_asks_first(path: str, servers: tuple[RedisServer, RedisServer]) -> None:
    for server in servers:
        put(server, KEY, Label())
    code, output = said("clear", "--config", path, typed="n\n")
    assert code == 1
    assert "Forget all that is remembered in cache.redis and cache.kv.redis?" in output
    code, output = said("clear", "--config", path, "--only", "redis", typed="y\n")
    assert (code, "cache.redis: 1 keys forgotten" in output) == (0, True)
    code, output = said("clear", "--config", path, "--yes")
    assert (code, "cache.redis: 0 keys" in output, "cache.kv.redis: 1 keys" in output) == (0, True, True)


def test_get_describes_a_value_and_checks_it_where_the_secret_is_at_hand(
    path: str, servers: tuple[RedisServer, RedisServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRIPTYCH_TEST_SECRET", "0123456789abcdef")
    put(servers[1], KEY, Label("kv_page", load(Path(path)).app.auth.salts()["default"]))
    code, output = said("get", KEY, "--config", path)
    assert code == 0
    told = {line.partition(":")[0]: line.partition(":")[2].strip() for line in output.splitlines()}
    assert (told["in"], told["kind"], told["arrays"]) == ("cache.kv.redis", "kv_page", "x <f4 [1000]")
    assert (told["stays"], told["check"]) == ("until it is evicted", "sound, of tenant default")
    monkeypatch.delenv("TRIPTYCH_TEST_SECRET")
    assert "check:  sealed: without the secret nobody can tell" in said("get", KEY, "--config", path)[1]
    monkeypatch.setenv("TRIPTYCH_TEST_SECRET", "fedcba9876543210")
    assert "sealed, and not of tenant default" in said("get", KEY, "--config", path)[1]


def test_get_says_what_is_not_there_or_no_value(path: str, servers: tuple[RedisServer, RedisServer]) -> None:
    code, output = said("get", KEY, "--config", path)
    assert (code, f"nothing is stored under '{KEY}'" in output) == (2, True)
    with servers[0].client() as client:
        client.set(stored_as(KEY), b"no value")
        code, output = said("get", KEY, "--config", path)
        assert (code, "cache.redis: " in output) == (2, True)
        client.set(stored_as(KEY), encode(KEY, {"[red]x": floats(4)}))
    assert "[red]x <f4 [1]" in said("get", KEY, "--config", path)[1]


def test_whoever_writes_to_redis_does_not_write_to_the_terminal(path: str, servers: tuple[RedisServer, RedisServer]) -> None:
    with servers[0].client() as client:
        client.set(stored_as(KEY), encode(KEY, {"a\x1b]0;title\x07\u202e\ncheck": floats(4)}, kind="\x9b2J"))
    code, output = said("get", KEY, "--config", path)
    assert code == 0
    assert "\\x9b2J" in output
    assert r"a\x1b]0;title\x07\u202e\ncheck <f4 [1]" in output
    assert output.replace("\n", "").isprintable()


def test_a_server_that_does_not_answer_is_an_error_that_names_its_setting(tmp_path: Path) -> None:
    path = config(tmp_path, {"redis": {"url": f"unix://{tmp_path}/none.sock"}})
    for words in (("stats",), ("clear", "--yes"), ("get", KEY)):
        code, output = said(*words, "--config", path)
        assert code == 2
        assert output.startswith(f"error: cache.redis: the Redis at {tmp_path}/none.sock does not answer")


def test_without_redis_there_is_nothing_to_look_at(tmp_path: Path) -> None:
    code, output = said("stats", "--config", config(tmp_path, {"redis": None}))
    assert (code, "remembers nothing in Redis" in output) == (2, True)


def test_a_cluster_is_shown_node_by_node(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    cluster = RedisCluster(tmp_path)
    request.addfinalizer(cluster.kill)
    path = config(tmp_path, {"redis": {"url": cluster.url, "cluster": True}})
    spec = cache_spec(load(Path(path)).app, "triptych").redis
    assert spec is not None
    tier = spec.open()
    tier.put_many({f"{number}": {"x": floats(400)} for number in range(50)})
    tier.close()  # gives what waits the time to be written
    code, output = said("stats", "--config", path)
    assert code == 0
    (entries,) = [line.split()[1:] for line in output.splitlines() if line.split()[:1] == ["entries"]]
    assert (len(entries), sum(map(int, entries))) == (3, 50)
    assert "50 keys forgotten" in said("clear", "--yes", "--config", path)[1]


@pytest.fixture
def runtime() -> Iterator[str]:
    """A user's folder for sockets, whose paths must be short."""
    with tempfile.TemporaryDirectory(prefix="run-") as folder:
        yield folder


def test_the_embedded_servers_of_a_configuration_are_found(runtime: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", runtime)
    code, output = said("stats")
    assert (code, "is triptych running on this machine?" in output) == (2, True)
    made = [
        EmbeddedRedis(server.max_memory_bytes, directory=embedded_directory(server.name))
        for server in embedded_servers(load(DEFAULT_CONFIG).app, "triptych")
    ]
    code, output = said("stats")
    assert code == 0
    assert "256.0 MiB" in output
    assert "512.0 MiB" in output
    for server in made:
        server.close()

"""What works and may not be what its user wants is said, with what to set."""

from typing import Any

import pytest

from pipelines.settings.cautions import cautions, unreachable
from pipelines.settings.config_file import parse
from tests.pipelines.settings.shipped import changed, shipped_args

ELSEWHERE = {"url": "redis://cache:6379/0"}


def told(cache: dict[str, Any], **auth: str) -> str:
    args = changed("cache", cache)
    return "\n".join(cautions(parse(args | {"auth": auth})))


def test_the_shipped_configuration_has_nothing_to_mind() -> None:
    assert cautions(parse(shipped_args())) == []


@pytest.mark.parametrize("cache", [{"redis": ELSEWHERE}, {"redis": {"url_env": "X"}}, {"kv": {"redis": ELSEWHERE}}])
def test_without_a_secret_what_is_remembered_elsewhere_can_be_forged(cache: dict[str, Any]) -> None:
    assert "auth.secret_env or auth.secret_file, and neither is set" in told(cache)
    assert told(cache, secret_env="SECRET") == ""
    assert told(cache, secret_file="/secret") == ""


def test_pages_on_the_same_server_drive_out_the_rest() -> None:
    assert "cache.kv.redis: the same server" in told({"redis": ELSEWHERE, "kv": {"redis": ELSEWHERE}})
    assert "same server" not in told({"redis": ELSEWHERE, "kv": {"redis": {"url": "redis://pages:6379/0"}}})
    assert "same server" not in told({})


@pytest.mark.parametrize("option", ["ssl_cert_reqs=none", "ssl_cert_reqs=optional", "ssl_check_hostname=False"])
def test_a_certificate_that_nobody_verifies_is_told(option: str) -> None:
    url = f"rediss://cache:6379/0?{option}"
    assert "cache.redis.url: the server's certificate is not verified" in told({"redis": {"url": url}})
    assert "not verified" not in told({"redis": {"url": "rediss://cache:6379/0?ssl_ca_certs=/ca.pem"}})


@pytest.mark.parametrize(
    ("num_replicas", "cache", "is_told"),
    [(1, {"redis": None}, False), (2, {"redis": None}, True), (2, {"redis": ELSEWHERE}, False)],
)
def test_quotas_that_several_http_replicas_count_apart_are_told_of(
    num_replicas: int, cache: dict[str, Any], is_told: bool
) -> None:
    auth = {"keys": [{"tenant": "a", "sha256": "0" * 64}], "secret_env": "S"}
    args = changed("cache", cache) | {"ingress": {"num_replicas": num_replicas}}
    asked = cautions(parse(args | {"auth": auth | {"quotas": {"a": {"requests_per_minute": 5}}}}))
    assert any("auth.quotas: each of 2 HTTP replicas counts alone" in line for line in asked) == is_told
    assert cautions(parse(args | {"auth": auth})) == []


def test_an_embedded_server_on_several_nodes_is_told_of() -> None:
    config = parse(shipped_args())
    assert unreachable(config, 1) == []
    both = unreachable(config, 3)
    assert [line.partition(":")[0] for line in both] == ["cache.redis.url", "cache.kv.redis.url"]
    assert all("3 nodes" in line for line in both)
    assert unreachable(parse(changed("cache", {"redis": ELSEWHERE})), 3) == []

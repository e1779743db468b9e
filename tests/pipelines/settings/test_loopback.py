"""Which hosts are this machine to itself, and what is refused where they aren't and there are no keys."""

import pytest

from pipelines.settings.config_file import parse
from pipelines.settings.loopback import is_loopback, refuse_open_door
from stages.contract.errors import ConfigurationError

MODELS = {"clip": {"pipeline": "embed", "embedder": {"source": {"demo": "clip"}}}}
OPEN = parse({"models": MODELS})
KEYED = parse({"models": MODELS, "auth": {"keys": [{"tenant": "ada", "sha256": "0" * 64}]}})

LOOPBACK = ["localhost", "LOCALHOST", "127.0.0.1", "127.1.2.3", "::1", "0:0:0:0:0:0:0:1", "::ffff:127.0.0.1"]
ELSEWHERE = [
    *("0.0.0.0", "::", "10.0.0.1", "192.168.1.2", "::ffff:10.0.0.1", "fe80::1", "128.0.0.1"),
    *("", "localhost.evil.example", "evil.example", "127.0.0.1.evil.example", "127.1", "0x7f000001", "2130706433", "[::1]"),
]


@pytest.mark.parametrize("host", LOOPBACK)
def test_loopback_needs_no_keys(host: str) -> None:
    assert is_loopback(host)
    refuse_open_door(OPEN, host)


@pytest.mark.parametrize("host", ELSEWHERE)
def test_anything_else_does(host: str) -> None:
    assert not is_loopback(host)
    with pytest.raises(ConfigurationError, match=r"auth\.keys is empty"):
        refuse_open_door(OPEN, host)
    refuse_open_door(KEYED, host)

"""The rule that a server which asks nobody for a key is open to this machine only, and which hosts and peers that means. Pure."""

import ipaddress

from pipelines.settings.schema.config import AppConfig
from stages.contract.errors import ConfigurationError

LOCALHOST = "localhost"


def is_loopback(host: str) -> bool:
    """Whether a host, without brackets or port, is this machine to itself: `localhost`, 127.0.0.0/8, ::1. No other name is, whatever it
    resolves to: what a name resolves to is up to whoever owns it."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host.lower() == LOCALHOST
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback


def refuse_open_door(config: AppConfig, host: str) -> None:
    """Raises `ConfigurationError` where strangers could reach a server that asks nobody for a key. `host`: what it listens on."""
    if not config.auth.keys and not is_loopback(host):
        raise ConfigurationError(
            f"host {host!r} is not loopback, and auth.keys is empty: configure keys, or serve on 127.0.0.1 (http_options.host)"
        )

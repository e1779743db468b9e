"""The rule that clients come in through Ray Serve's own HTTP proxies. Serve has two other ways: HAProxy in their place, and replicas that
listen themselves. There what the proxies bound for a whole node (`pipelines/ingress/proxy/`: heads, the bodies of all requests at once) is
bounded for each replica, HAProxy tells everybody /-/routes and answers in HTML, and how streams outlive changes and lost replicas is
untried. Pure."""

from collections.abc import Mapping

from stages.contract.errors import ConfigurationError

HA_PROXY = "RAY_SERVE_ENABLE_HA_PROXY"
DIRECT_INGRESS = "RAY_SERVE_ENABLE_DIRECT_INGRESS"


def refuse_other_ways_in(is_on: Mapping[str, bool]) -> None:
    """Raises `ConfigurationError` where one is on. `is_on`: by the environment variable that turns it on."""
    if found := [name for name, on in is_on.items() if on]:
        raise ConfigurationError(
            f"{', '.join(found)}: Ray Serve would lead clients past its own HTTP proxies, and Triptych is served through these only: start "
            f"Ray without it (RAY_SERVE_THROUGHPUT_OPTIMIZED=1 turns {DIRECT_INGRESS} on, unless that is 0)"
        )

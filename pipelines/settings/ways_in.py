"""The rule that clients come in through Ray Serve's own HTTP proxies. Serve has two other ways: HAProxy in their place, and replicas that
listen themselves. Both leave out the proxy, and with it what runs there for a whole node (`pipelines/ingress/proxy/`): bounds on heads and
on the bodies of all requests at once, and answers to late requests in Triptych's own shape. Pure."""

from collections.abc import Mapping

from stages.contract.errors import ConfigurationError

HA_PROXY = "RAY_SERVE_ENABLE_HA_PROXY"
DIRECT_INGRESS = "RAY_SERVE_ENABLE_DIRECT_INGRESS"


def refuse_other_ways_in(is_on: Mapping[str, bool]) -> None:
    """Raises `ConfigurationError` where one is on. `is_on`: by the environment variable that turns it on."""
    if found := [name for name, on in is_on.items() if on]:
        raise ConfigurationError(
            f"{', '.join(found)}: Ray Serve would lead clients past its own HTTP proxy, which bounds what they send. Triptych is not "
            f"served that way: start Ray without it (RAY_SERVE_THROUGHPUT_OPTIMIZED=1 turns {DIRECT_INGRESS} on, unless that is 0)"
        )

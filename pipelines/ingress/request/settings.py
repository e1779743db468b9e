"""What the HTTP surface may be told: limits, keys, how images are fetched. Values only; `config.py` says where they come
from."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version

from pipelines.ingress.images.fetch import FetchPolicy
from pipelines.ingress.request.own_address import OwnAddress
from pipelines.ingress.tenants.auth import Caller, KeyRing
from pipelines.settings.schema.auth import QuotaConfig, salt_of
from pipelines.settings.schema.config import AppConfig, LimitsConfig
from pipelines.settings.schema.http import HttpConfig, KeptConfig

NOBODY = ""
"""In place of a tenant's name, which has at least a letter."""


@dataclass(frozen=True, slots=True)
class IngressSettings:
    """`keys`: SHA-256 of an API key in hex -> tenant; none: one tenant, no key asked. `operators`: tenants. `models`: tenant -> the models
    that are its own, where those are not all. `quotas`: of the tenants that have some. `traffic`: model -> weights of those that answer for
    it. Seconds and bytes."""

    limits: LimitsConfig = field(default_factory=LimitsConfig)
    keys: Mapping[str, str] = field(default_factory=dict)
    secret: bytes = field(default=b"", repr=False)
    operators: frozenset[str] = frozenset()
    models: Mapping[str, frozenset[str]] = field(default_factory=dict)
    quotas: Mapping[str, QuotaConfig] = field(default_factory=dict)
    traffic: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    fetch: FetchPolicy = field(default_factory=FetchPolicy)
    heartbeat_s: float = HttpConfig().heartbeat_s
    headers_within_s: float = HttpConfig().headers_within_s
    kept: KeptConfig = field(default_factory=KeptConfig)
    address: OwnAddress = field(default_factory=lambda: OwnAddress(None, ()))
    cors_origins: frozenset[str] = frozenset()
    fingerprint: str = "triptych"
    adds_request_id: bool = True

    def key_ring(self) -> KeyRing:
        return KeyRing(self.keys, self.secret)

    def server(self) -> Caller:
        """Whose what is kept for anybody is: no tenant's."""
        return Caller(NOBODY, salt_of(self.secret, NOBODY))

    def sees_all(self, tenant: str) -> bool:
        """Whether a tenant is told how the whole server does. That tells one tenant about another, so it is for a single tenant, and for
        operators."""
        return len(set(self.keys.values())) <= 1 or tenant in self.operators


def settings_of(config: AppConfig) -> IngressSettings:
    """The settings that a configuration means, behind Serve's proxy, which adds x-request-id itself. Raises
    `ConfigurationError` where a key or the secret cannot be had, or is no good."""
    return IngressSettings(
        limits=config.limits,
        keys=config.auth.tenants(),
        secret=config.auth.secret(),
        operators=frozenset(config.auth.operators),
        models={tenant: frozenset(models) for tenant, models in config.auth.models.items()},
        quotas=config.auth.quotas,
        traffic=config.traffic,
        fetch=FetchPolicy(
            enabled=config.fetch.enabled, timeout_s=config.fetch.timeout_s, allowed_hosts=config.fetch.allowed_hosts
        ),
        heartbeat_s=config.ingress.heartbeat_s,
        headers_within_s=config.ingress.headers_within_s,
        kept=config.ingress.kept,
        address=OwnAddress(config.ingress.public_url, config.ingress.trusted_proxies),
        cors_origins=frozenset(config.ingress.cors_origins),
        fingerprint=f"triptych-{_version()}",
        adds_request_id=False,
    )


def _version() -> str:
    try:
        return version("triptych")
    except PackageNotFoundError:
        return "uninstalled"

"""What the HTTP surface may be told: limits, keys, how pictures are fetched. Values only; `config.py` says where they come
from."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version

from pipelines.ingress.pictures.image_url import FetchPolicy, PictureLimits
from pipelines.ingress.request.auth import KeyRing
from pipelines.settings.config import AppConfig


@dataclass(frozen=True, slots=True)
class IngressSettings:
    """`keys`: SHA-256 of an API key in hex -> tenant; none: one tenant, no key asked. `show_cache`: whether receipts tell
    cache outcomes, which is for a single tenant only. Seconds, bytes, pixels."""

    max_body_bytes: int = 32 * 2**20
    image_bytes: int = 20 * 2**20
    image_pixels: int = 25_000_000
    images_per_request: int = 8
    prompt_chars: int = 200_000
    max_tokens: int | None = None
    max_choices: int = 8
    max_pictures: int = 10
    embedding_inputs: int = 256
    default_request_s: float = 120
    max_request_s: float = 600
    keys: Mapping[str, str] = field(default_factory=dict)
    secret: bytes = b""
    show_cache: bool = True
    fetch: FetchPolicy = field(default_factory=FetchPolicy)
    heartbeat_s: float = 10
    kept_picture_s: float = 600
    kept_picture_bytes: int = 64 * 2**20
    fingerprint: str = "triptych"
    adds_request_id: bool = True

    def key_ring(self) -> KeyRing:
        return KeyRing(self.keys, self.secret)

    def picture_limits(self) -> PictureLimits:
        return PictureLimits(max_bytes=self.image_bytes, max_pixels=self.image_pixels)


def settings_of(config: AppConfig) -> IngressSettings:
    """The settings that a configuration means, behind Serve's proxy, which adds x-request-id itself. Raises
    `ConfigurationError` where a key's environment variable is not set."""
    limits, auth = config.limits, config.auth
    return IngressSettings(
        max_body_bytes=limits.body_bytes,
        image_bytes=limits.image_bytes,
        image_pixels=limits.image_pixels,
        images_per_request=limits.images_per_request,
        prompt_chars=limits.prompt_chars,
        max_tokens=limits.max_tokens,
        max_choices=limits.max_choices,
        max_pictures=limits.max_pictures,
        embedding_inputs=limits.embedding_inputs,
        default_request_s=limits.default_request_s,
        max_request_s=limits.max_request_s,
        keys={key.digest(): key.tenant for key in auth.keys},
        secret=auth.secret(),
        show_cache=len({key.tenant for key in auth.keys}) <= 1,
        fetch=FetchPolicy(
            enabled=config.fetch.enabled, timeout_s=config.fetch.timeout_s, allowed_hosts=config.fetch.allowed_hosts
        ),
        fingerprint=f"triptych-{_version()}",
        adds_request_id=False,
    )


def _version() -> str:
    try:
        return version("triptych")
    except PackageNotFoundError:
        return "uninstalled"

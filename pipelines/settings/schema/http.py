"""What may be said of how the HTTP surface is reached, and of what it keeps for clients who come back. Decides what is a public address,
an origin and a proxy. Knows no routes."""

from ipaddress import ip_network
from typing import Any
from urllib.parse import SplitResult, urlsplit

from pydantic import Field, field_validator

from pipelines.settings.schema.strict import Strict

ANY_ORIGIN = "*"
MiB = 2**20


class KeptConfig(Strict):
    """What is kept for clients who come back: images under addresses, jobs, files. In `cache.redis`, where there is one: then every HTTP
    replica has it, and it outlives each; or else in an HTTP replica's own memory."""

    image_s: float = Field(600, gt=0, description="how long an image under an address is kept")
    image_bytes: int = Field(64 * MiB, ge=MiB, description="of one tenant's images under addresses; the oldest go first")
    job_s: float = Field(3600, gt=0, description="within which a job must be done, and how long what came of it is kept")
    jobs: int = Field(64, ge=1, description="of one tenant, done ones included")
    job_bytes: int = Field(256 * MiB, ge=MiB, description="of one tenant's jobs: what they are given, and what came of them")
    running_jobs: int = Field(
        8, ge=1, description="that one HTTP replica has under way, and one of each tenant that has none there"
    )
    file_s: float = Field(7 * 86_400, gt=0, description="how long a file is kept: the input of a batch, or what came of one")
    files: int = Field(1000, ge=1, description="of one tenant")
    file_bytes: int = Field(256 * MiB, ge=MiB, description="of one tenant's files")
    batch_s: float = Field(86_400, gt=0, description="the longest that a batch may take; it is kept for as long again")
    batches: int = Field(64, ge=1, description="of one tenant, done ones included")
    batch_requests: int = Field(50_000, ge=1, description="of one batch")
    batch_at_once: int = Field(8, ge=1, description="requests of batches that one HTTP replica has under way")
    memory_bytes: int = Field(512 * MiB, ge=MiB, description="of all that is kept in memory, where there is no cache.redis")


class HttpConfig(Strict):
    """How the HTTP surface speaks. `public_url`: where clients find it, for addresses in answers; None: as each request was addressed.
    `trusted_proxies`: addresses or networks of proxies whose `x-forwarded-proto` and `x-forwarded-host` are believed. `cors_origins`:
    whose pages may ask from a browser ("*": all)."""

    public_url: str | None = None
    trusted_proxies: tuple[str, ...] = ()
    cors_origins: tuple[str, ...] = ()
    heartbeat_s: float = Field(10, gt=0, description="a stream says something at least so often")
    headers_within_s: float = Field(
        3, ge=0, description="a stream whose first event takes longer begins without it: what goes wrong then is an event"
    )
    kept: KeptConfig = KeptConfig()

    @field_validator("public_url")
    @classmethod
    def is_an_address(cls, given: str | None) -> str | None:
        if given is None:
            return None
        parts = _parts(given)
        if parts is None or parts.query or parts.fragment or "@" in parts.netloc:
            raise ValueError(f"{given!r} is no address of a server; write https://NAME, with a path where it has one")
        return given.rstrip("/")

    @field_validator("trusted_proxies")
    @classmethod
    def are_networks(cls, given: tuple[str, ...]) -> tuple[str, ...]:
        for text in given:
            try:
                ip_network(text)
            except ValueError as error:
                raise ValueError(f"{text!r} is neither an address (10.0.0.7) nor a network (10.0.0.0/8): {error}") from None
        return given

    @field_validator("cors_origins")
    @classmethod
    def are_origins(cls, given: tuple[str, ...]) -> tuple[str, ...]:
        for text in given:
            parts = _parts(text)
            if text != ANY_ORIGIN and (parts is None or text != f"{parts.scheme}://{parts.netloc}" or "@" in text):
                raise ValueError(f'{text!r} is no origin; write https://NAME or https://NAME:PORT, without a path, or "*"')
        return tuple(text.lower() for text in given)

    def http(self) -> dict[str, Any]:
        """Of a larger class's, these settings."""
        return {name: getattr(self, name) for name in HttpConfig.model_fields}


def _parts(text: str) -> SplitResult | None:
    """None: no http(s) address with a host."""
    try:
        parts = urlsplit(text)
        _ = parts.port
    except ValueError:
        return None
    return parts if parts.scheme in ("http", "https") and parts.hostname else None

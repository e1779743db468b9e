"""Who may ask, as the configuration says it: keys, the tenants they are of, and the secret that keeps tenants apart.

Decides which keys are none. Where a secret is read from is `pipelines/settings/environment.py`; who is asking,
`pipelines/ingress/tenants/auth.py`.
"""

import hashlib
import hmac
from collections.abc import Mapping
from typing import Annotated

from pydantic import Field, StringConstraints, field_validator, model_validator

from pipelines.settings.environment import hard_to_guess, secret_of
from pipelines.settings.schema.strict import Strict
from stages.contract.errors import ConfigurationError

SINGLE_TENANT = "default"


def salt_of(secret: bytes, tenant: str) -> str:
    """What goes into every name of the tenant's, and seals its values: 64 hex digits, different for every tenant and secret."""
    return hmac.new(secret, b"triptych tenant\0" + tenant.encode(), hashlib.sha256).hexdigest()


class KeyConfig(Strict):
    """An API key: its SHA-256 in hex, or the environment variable or the file that holds it."""

    tenant: str = Field(min_length=1)
    sha256: Annotated[str, StringConstraints(strip_whitespace=True, to_lower=True)] | None = None
    env: str | None = Field(None, min_length=1)
    file: str | None = Field(None, min_length=1)

    @field_validator("sha256")
    @classmethod
    def is_a_digest(cls, given: str | None) -> str | None:
        if given is not None and not (len(given) == 64 and set(given) <= set("0123456789abcdef")):
            raise ValueError("not 64 hex digits: it is the key's SHA-256 (`printf %s KEY | sha256sum`), not the key")
        if given == hashlib.sha256().hexdigest():
            raise ValueError("it is that of an empty key")
        return given

    @model_validator(mode="after")
    def exactly_one(self) -> "KeyConfig":
        if sum(given is not None for given in (self.sha256, self.env, self.file)) != 1:
            raise ValueError("give exactly one of sha256, env, file")
        return self

    def digests(self) -> tuple[str, ...]:
        """Several where a file holds several keys, a line each, as it does while one takes another's place. Raises `ConfigurationError`
        where the environment variable or the file holds no key."""
        if self.sha256 is not None:
            return (self.sha256,)
        setting = f"auth.keys: the key of tenant {self.tenant}"
        found = secret_of(env=self.env, file=self.file, setting=setting)
        keys = found.lines() if self.file is not None else (found,)
        texts = [hard_to_guess(key, setting).text for key in keys]
        return tuple(hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest() for text in texts)


class QuotaConfig(Strict):
    """What a tenant may ask of all HTTP replicas together; None: as much as there is."""

    requests_per_minute: int | None = Field(
        None, ge=1, le=10**9, description="a minute's worth may come at once, where nothing came before; then they come evenly"
    )
    device_seconds_per_minute: float | None = Field(
        None, gt=0, le=10**9, description="of all devices, charged when requests end; who has overdrawn waits"
    )
    concurrent_requests: int | None = Field(None, ge=1, le=10**9, description="from arrival to the answer's last byte")
    highest_priority: int | None = Field(
        None, ge=-10, le=10, description="the most urgent triptych.priority, lower being more urgent; None: 0"
    )


class AuthConfig(Strict):
    """Without keys: one tenant, and loopback only. `secret_env`, `secret_file`: the variable or the file with the secret that tenant salts
    derive from."""

    keys: tuple[KeyConfig, ...] = ()
    secret_env: str | None = Field(None, min_length=1)
    secret_file: str | None = Field(None, min_length=1)
    models: dict[str, tuple[str, ...]] = Field(
        {}, description="tenant -> the models that it may ask, and sees; all, for a tenant that is not here"
    )
    quotas: dict[str, QuotaConfig] = Field(
        {}, description="tenant -> what it may ask; a tenant that is not here: all there is"
    )
    operators: tuple[str, ...] = Field(
        (),
        description="tenants who see of all what the others see of their own: counters, replicas, batches; one tenant alone does",
    )

    def secret(self) -> bytes:
        """Raises `ConfigurationError` where the environment variable or the file holds no secret."""
        if self.secret_env is None and self.secret_file is None:
            return b"triptych single tenant"
        setting = "auth.secret_env" if self.secret_env is not None else "auth.secret_file"
        secret = hard_to_guess(secret_of(env=self.secret_env, file=self.secret_file, setting=setting), setting)
        return secret.text.encode("utf-8", "surrogateescape")

    def salts(self) -> Mapping[str, str]:
        """Tenant -> salt. Raises `ConfigurationError` as `secret` does."""
        secret, tenants = self.secret(), dict.fromkeys(key.tenant for key in self.keys)
        return {tenant: salt_of(secret, tenant) for tenant in tenants or [SINGLE_TENANT]}

    def tenants(self) -> dict[str, str]:
        """SHA-256 of a key in hex -> tenant. Raises `ConfigurationError` where one key is two tenants', and as `KeyConfig.digests` does."""
        found: dict[str, str] = {}
        for digest, tenant in ((digest, key.tenant) for key in self.keys for digest in key.digests()):
            owner = found.setdefault(digest, tenant)
            if owner != tenant:
                raise ConfigurationError(
                    f"auth.keys: tenants {owner} and {tenant} have the same key; give each a key of its own"
                )
        return found

    def files(self) -> tuple[str, ...]:
        """Those that hold keys."""
        return tuple(key.file for key in self.keys if key.file is not None)

    @model_validator(mode="after")
    def a_key_has_one_tenant(self) -> "AuthConfig":
        owners: dict[tuple[str | None, ...], str] = {}
        for key in self.keys:
            owner = owners.setdefault((key.sha256, key.env, key.file), key.tenant)
            if owner != key.tenant:
                raise ValueError(f"tenants {owner} and {key.tenant} have the same key; give each a key of its own")
        return self

    @model_validator(mode="after")
    def tenants_have_keys(self) -> "AuthConfig":
        for setting, tenants in (("operators", self.operators), ("models", self.models), ("quotas", self.quotas)):
            unknown = sorted(set(tenants) - {key.tenant for key in self.keys})
            if unknown:
                raise ValueError(f"{setting}: no key is of tenant {', '.join(unknown)}")
        return self

    @model_validator(mode="after")
    def several_tenants_need_a_secret(self) -> "AuthConfig":
        if self.secret_env is not None and self.secret_file is not None:
            raise ValueError("give secret_env or secret_file, not both")
        tenants = {key.tenant for key in self.keys}
        if len(tenants) > 1 and SINGLE_TENANT in tenants:
            raise ValueError(
                f"keys: beside others no tenant is called {SINGLE_TENANT}, as everybody is called who has no key: give it another name"
            )
        if len(tenants) > 1 and self.secret_env is None and self.secret_file is None:
            raise ValueError(
                "several tenants need secret_env or secret_file: what is remembered for one must not be guessable by another"
            )
        return self

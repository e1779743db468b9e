"""Who is asking: from an API key to a tenant, and from a tenant to the salt that goes into every name.

Keys are known by their SHA-256 only. The salt is derived here, from a secret of the server, and never read from a request.
Knows no routes and no HTTP beyond the Authorization header.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from pipelines.settings.schema.auth import SINGLE_TENANT, salt_of
from stages.contract.errors import NotAuthorized


@dataclass(frozen=True, slots=True)
class Caller:
    """`salt`: 64 hex digits, different for every tenant and server secret."""

    tenant: str
    salt: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class KeyRing:
    """`keys`: SHA-256 of the key in hex -> tenant. Without keys everyone is the one tenant."""

    keys: Mapping[str, str] = field(default_factory=dict)
    secret: bytes = field(default=b"", repr=False)

    def identify(self, authorization: str | None) -> Caller:
        """Raises `NotAuthorized` for a missing or unknown key."""
        if not self.keys:
            return self._caller(SINGLE_TENANT)
        scheme, _, key = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not key.strip():
            raise NotAuthorized("an API key is needed: send the header 'Authorization: Bearer KEY'")
        digest = hashlib.sha256(key.strip().encode("utf-8", "surrogateescape")).hexdigest()
        tenant = self.keys.get(digest)
        if tenant is None:
            raise NotAuthorized("the API key is not known (auth.keys)")
        return self._caller(tenant)

    def of(self, tenant: str) -> Caller | None:
        """None: no key is that tenant's."""
        known = set(self.keys.values()) if self.keys else {SINGLE_TENANT}
        return self._caller(tenant) if tenant in known else None

    def _caller(self, tenant: str) -> Caller:
        return Caller(tenant, salt_of(self.secret, tenant))

"""What clients come back for: finished images, jobs, files, batches, under ids that nobody can guess.

Decides whose a value is, how much one tenant may keep of a kind, and that nobody believes what somebody else wrote: each value is sealed
with its owner's salt. Where they are is the store's business (`cache/store.py`): in Redis every HTTP process sees them, and in memory this
one alone. Knows no HTTP and no meaning of a value.
"""

import hashlib
import hmac
import re
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from cache.store import Store, StoreDown
from stages.concurrency.thread_pool import ThreadPool
from stages.contract.errors import Overloaded, Unavailable

T = TypeVar("T")

RETRY_AFTER_S = 2.0
_PURPOSE = b"triptych kept value"
_MAC_BYTES = 32
_ID = re.compile(r"[A-Za-z0-9_-]{1,100}")


class Owner(Protocol):
    """A `Caller`, or a `RequestContext`."""

    @property
    def tenant(self) -> str: ...

    @property
    def salt(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of value. `max_bytes`, `max_items`: of one tenant's; over that the oldest go where `makes_room`, or else the new one is
    refused. `what`: in messages, in the plural. `setting`: what bounds them."""

    name: str
    what: str
    keep_s: float
    max_bytes: int
    max_items: int
    makes_room: bool = False
    setting: str = "ingress.kept"


@dataclass(frozen=True, slots=True)
class Listed:
    id: str
    num_bytes: int


class KeptFull(Overloaded):
    """The tenant keeps as much as it may."""

    code = "too_much_kept"


def new_id(prefix: str) -> str:
    """192 random bits behind the prefix."""
    return f"{prefix}{secrets.token_hex(24)}"


def is_id(text: str) -> bool:
    """Whether it might be an id: whatever else a client sends is none, and never part of a key."""
    return _ID.fullmatch(text) is not None


class KeptValues:
    """On one event loop. Every method that asks the store raises `Unavailable` where it can't be asked. `own`: where they are as long as
    there is no other."""

    def __init__(self, own: Store, pool: ThreadPool) -> None:
        self._own = self._store = own
        self._pool = pool

    def keep_in(self, store: Store | None) -> None:
        """From now on. None: in its own."""
        self._store = store if store is not None else self._own

    @property
    def is_shared(self) -> bool:
        """Whether every HTTP process sees them, and they outlive this one."""
        return self._store.is_shared

    async def put(self, kind: Kind, id: str, data: bytes, owner: Owner, *, charged_to: str | None = None) -> bool:
        """Keeps a new value; False: there is one of that id. `charged_to`: the tenant whose room it takes, where that is not its owner.
        Raises `KeptFull`."""
        return await self._asked(self._put, kind, id, data, owner, owner.tenant if charged_to is None else charged_to)

    async def replace(self, kind: Kind, id: str, data: bytes, owner: Owner) -> bool:
        """Writes a value anew, and lets it live `keep_s` from now; what its tenant is charged stays as it was. False: there is none, and
        what was deleted stays so."""
        key = _key(kind, id, owner)
        written = sealed(key, data, owner.salt)
        return await self._asked(self._store.write, key, written, ttl_s=kind.keep_s, owner=owner.tenant, if_present=True)

    async def get(self, kind: Kind, id: str, owner: Owner) -> bytes | None:
        """None: there is none, it is another's, or its time is over."""
        return await self._asked(self._get, kind, id, owner) if is_id(id) else None

    async def delete(self, kind: Kind, id: str, owner: Owner) -> None:
        if is_id(id):
            await self._asked(self._delete, kind, id, owner)

    async def delete_all(self, kind: Kind, prefix: str, owner: Owner, *, besides: str | None = None) -> None:
        """The tenant's own whose ids begin so, the oldest first."""
        for one in reversed(await self.listed(kind, owner)):
            if one.id.startswith(prefix) and one.id != besides:
                await self.delete(kind, one.id, owner)

    async def listed(self, kind: Kind, owner: Owner) -> Sequence[Listed]:
        """The tenant's own, the newest first. What was dropped before its time may still be listed."""
        return list(reversed(await self._asked(self._listed, kind, owner.tenant)))

    async def ask(self, question: Callable[[Store], T]) -> T:
        """What the store itself says, off the event loop."""
        return await self._asked(lambda: question(self._store))

    async def _asked(self, function: Callable[..., T], *args: object, **kwargs: object) -> T:
        try:
            return await self._pool.run(function, *args, **kwargs)
        except StoreDown as error:
            raise Unavailable(
                "what is kept for clients can't be reached now; try again", retry_after_s=RETRY_AFTER_S, detail=str(error)
            ) from error

    def _put(self, kind: Kind, id: str, data: bytes, owner: Owner, tenant: str) -> bool:
        key, index = _key(kind, id, owner), _index(kind, tenant)
        if self._store.read(key) is not None:  # what is there already needs no room
            return False
        self._make_room(kind, len(data), owner, tenant)
        if not self._store.write(key, sealed(key, data, owner.salt), ttl_s=kind.keep_s, owner=tenant, if_absent=True):
            return False
        self._store.add(index, f"{id}:{len(data)}", ttl_s=kind.keep_s)
        return True

    def _make_room(self, kind: Kind, num_bytes: int, owner: Owner, tenant: str) -> None:
        listed = list(self._listed(kind, tenant))
        total = sum(one.num_bytes for one in listed)
        while listed and (len(listed) >= kind.max_items or total + num_bytes > kind.max_bytes):
            if not kind.makes_room:
                raise KeptFull(
                    f"{len(listed)} {kind.what} of {total} bytes are kept; at most {kind.max_items} of {kind.max_bytes} bytes are "
                    f"({kind.setting}): delete some, or wait until their time is over",
                    retry_after_s=RETRY_AFTER_S,
                )
            gone = listed.pop(0)
            total -= gone.num_bytes
            self._store.delete(_key(kind, gone.id, owner))
            self._store.remove(_index(kind, tenant), f"{gone.id}:{gone.num_bytes}")

    def _get(self, kind: Kind, id: str, owner: Owner) -> bytes | None:
        key = _key(kind, id, owner)
        stored = self._store.read(key)
        return None if stored is None else opened(key, stored, owner.salt)

    def _delete(self, kind: Kind, id: str, owner: Owner) -> None:
        self._store.delete(_key(kind, id, owner))
        for one in self._listed(kind, owner.tenant):
            if one.id == id:
                self._store.remove(_index(kind, owner.tenant), f"{one.id}:{one.num_bytes}")

    def _listed(self, kind: Kind, tenant: str) -> Sequence[Listed]:
        """The oldest first."""
        members = (member.rpartition(":") for member in self._store.members(_index(kind, tenant)))
        return [Listed(id, int(size)) for id, _, size in members if is_id(id) and size.isdecimal()]


def _key(kind: Kind, id: str, owner: Owner) -> str:
    return f"{kind.name}:{_digest(owner.tenant)}:{id}"


def _index(kind: Kind, tenant: str) -> str:
    return f"{kind.name}s:{_digest(tenant)}"


def _digest(tenant: str) -> str:
    return hashlib.sha256(tenant.encode("utf-8", "surrogateescape")).hexdigest()


def sealed(key: str, data: bytes, salt: str) -> bytes:
    """As it is kept under a key: for `opened`."""
    return _mac(key, data, salt) + data


def opened(key: str, stored: bytes, salt: str) -> bytes | None:
    """None: nobody who has the salt wrote it there."""
    data = stored[_MAC_BYTES:]
    return data if hmac.compare_digest(stored[:_MAC_BYTES], _mac(key, data, salt)) else None


def _mac(key: str, data: bytes, salt: str) -> bytes:
    own = hmac.new(_PURPOSE, salt.encode(), hashlib.sha256).digest()
    named = key.encode()
    return hmac.new(own, len(named).to_bytes(4, "big") + named + data, hashlib.sha256).digest()

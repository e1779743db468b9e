"""A tier that Triptych doesn't ship: a file for each value, in a folder that several processes may share. All that a tier takes is
written here; it is looked in, counted and told of in receipts with no edit under `cache/` or `stages/`."""

import hashlib
import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from cache.accounts import Accounts
from cache.codec import Arrays, CorruptValue, decode, encode, is_storable, size_of
from cache.finite import is_finite
from cache.tier import UNLABELLED, Label, TierStats


class FolderTier:
    """Implements `cache.tier.Tier`."""

    name = "folder"

    def __init__(self, folder: Path) -> None:
        self._folder, self._accounts, self._closed = folder, Accounts(), False

    def get_many(self, keys: Sequence[str], label: Label = UNLABELLED) -> dict[str, Arrays]:
        wanted, found = dict.fromkeys(keys), dict[str, Arrays]()
        for key in wanted if not self._closed else ():
            try:
                found[key] = decode(key, self._path(key).read_bytes(), label.seal)
            except OSError:
                continue
            except CorruptValue:
                self._accounts.count(label.kind, corrupt=1)
                self.delete([key])
        self._accounts.count(label.kind, hits=len(found), misses=len(wanted) - len(found))
        return found

    def holds(self, keys: Sequence[str]) -> set[str]:
        return {key for key in keys if self._path(key).exists()}

    def put_many(self, values: Mapping[str, Arrays], label: Label = UNLABELLED) -> None:
        for key, value in values.items():
            if not (is_storable(value) and is_finite(value)):
                self._accounts.count(label.kind, errors=1)
            elif self._closed or not self._write(key, encode(key, value, label.seal, label.kind)):
                self._accounts.count(label.kind, dropped=1)
            else:
                self._accounts.count(label.kind, puts=1, put_bytes=size_of(value))

    def _write(self, key: str, data: bytes) -> bool:
        path = self._path(key)
        temporary = path.with_suffix(f".{os.getpid()}.{threading.get_ident()}")
        try:
            temporary.write_bytes(data)
            temporary.replace(path)
        except OSError:
            return False
        return True

    def delete(self, keys: Sequence[str]) -> None:
        for key in keys:
            self._path(key).unlink(missing_ok=True)

    def stats(self) -> TierStats:
        sizes = [path.stat().st_size for path in self._folder.glob("*.value")]
        totals = self._accounts.totals()
        return TierStats(**totals, bytes=sum(sizes), entries=len(sizes), kinds=self._accounts.kinds())

    def close(self) -> None:
        self._closed = True

    def _path(self, key: str) -> Path:
        return self._folder / f"{hashlib.sha256(key.encode()).hexdigest()}.value"

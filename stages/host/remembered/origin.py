"""Who makes a stage's results, as far as their names depend on it: the weights and the dtype it computes with, and the versions of
its libraries.

Decides what a pipeline's name for a result becomes where it is remembered. Whoever asks for it knows neither dtype nor versions,
and may for a while, where a model is being replaced, think of other weights. Pure but for the versions, which
`stages/checkpoints/input_versions.py` reads.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Self

from cache.keys import name as named
from stages.checkpoints.input_versions import input_versions
from stages.contract.engine import EngineIdentity


@dataclass(frozen=True, slots=True)
class Origin:
    """`key` is a digest. `device` and `dtype`: what receipts of remembered results say."""

    key: str
    device: str
    dtype: str

    @classmethod
    def of(cls, identity: EngineIdentity, weights: str) -> Self:
        """Of what an engine in this process makes. `weights`: a digest of what it was loaded from."""
        key = named("origin", weights=weights, dtype=identity.dtype, versions=input_versions())
        return cls(key, identity.device, identity.dtype)


@lru_cache(maxsize=8192)
def remembered_as(name: str, origin: str) -> str:
    """The key in the cache of a result; `name`: what pipelines call it; `origin`: the key of who makes it."""
    return named("made_by", origin=origin, result=name)

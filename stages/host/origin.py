"""Who makes a stage's results, as far as their names depend on it: the dtype it computes in, and the versions of its libraries.

Decides what a pipeline's name for a result becomes where it is remembered: whoever asks for it knows neither, and need not be run
by the same versions. Pure but for the versions, which `stages/checkpoints/input_versions.py` reads.
"""

from dataclasses import dataclass
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
    def of(cls, identity: EngineIdentity) -> Self:
        """Of what an engine in this process makes."""
        return cls(named("origin", dtype=identity.dtype, versions=input_versions()), identity.device, identity.dtype)


def remembered_as(name: str, origin: str) -> str:
    """The key in the cache of a result; `name`: what pipelines call it; `origin`: the key of who makes it."""
    return named("made_by", origin=origin, result=name)

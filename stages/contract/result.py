"""What a stage makes: one typed value a kind of stage, whose arrays can be remembered and sent.

Decides how a result becomes named arrays and is one again. Knows no kind of stage, no tier and no torch.
"""

import re
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, Self

from numpy.typing import NDArray

Arrays = Mapping[str, NDArray[Any]]
"""Named numpy arrays, C-contiguous, in the dtype they were computed in; bfloat16 is `BFLOAT16` of cache/codec.py."""


class Result:
    """Base of every result: a frozen dataclass whose fields are arrays, or None where the model has no such thing."""

    __slots__ = ()

    @classmethod
    def kind(cls) -> str:
        """What caches call such results: "vision_features"."""
        return re.sub(r"(?<=.)(?=[A-Z])", "_", cls.__name__).lower()

    def arrays(self) -> Arrays:
        """Its arrays by field name; what is None is left out."""
        named = {field.name: getattr(self, field.name) for field in fields(self)}  # type: ignore[arg-type]
        return {name: value for name, value in named.items() if value is not None}

    @classmethod
    def of(cls, arrays: Arrays) -> Self:
        """The result that these arrays were. Raises `ValueError` for arrays of another kind of result."""
        known = {field.name for field in fields(cls)}  # type: ignore[arg-type]
        if strange := set(arrays) - known:
            raise ValueError(f"{cls.__name__} has no {', '.join(sorted(strange))}")
        try:
            return cls(**arrays)
        except TypeError as error:
            raise ValueError(f"{cls.__name__}: {error}") from None

    @property
    def num_bytes(self) -> int:
        """Of its arrays."""
        return sum(array.nbytes for array in self.arrays().values())

    def freeze(self) -> Self:
        """Makes its arrays read-only: from now on several requests share them."""
        for array in self.arrays().values():
            array.flags.writeable = False
        return self

"""What makers say of their devices: peak rates, bandwidth and memory (`datasheets.json`, with sources).

Decides what a device is called: as torch names it, or as Ray's accelerator types do. Knows no stage; measures nothing.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

FLOAT32 = "float32"
_FILE = Path(__file__).with_name("datasheets.json")


@dataclass(frozen=True, slots=True)
class Datasheet:
    """`names`: the maker's own first. `flops`: peak dense floating-point operations a second, by dtype."""

    names: tuple[str, ...]
    memory_bytes: float
    bytes_per_s: float
    flops: Mapping[str, float]
    source: str

    @property
    def name(self) -> str:
        return self.names[0]

    def flops_in(self, dtype: str) -> float:
        """A dtype that the device doesn't have is computed as float32."""
        return self.flops.get(dtype, self.flops[FLOAT32])


@cache
def datasheets() -> Sequence[Datasheet]:
    told = json.loads(_FILE.read_text())
    return tuple(
        Datasheet(
            tuple(one["names"]),
            one["memory"] * 1e9,
            one["bandwidth"] * 1e9,
            {dtype: rate * 1e12 for dtype, rate in one["flops"].items()},
            one["source"],
        )
        for one in told["devices"]
    )


def datasheet_of(device: str) -> Datasheet | None:
    """By any of its names, however they are cased. None: nobody knows it ("cpu")."""
    wanted = device.casefold()
    return next((sheet for sheet in datasheets() if wanted in map(str.casefold, sheet.names)), None)

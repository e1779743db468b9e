"""Receipts of what was made for an item, while this process holds them.

Decides how whoever asked learns when each of them ended, though no two machines' clocks agree: every process says how long ago that
was, by its own clock, and adds what passed while it held them. Pure.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from stages.contract.item import StageReceipt


@dataclass(frozen=True, slots=True)
class HeldReceipt:
    """`came_at`: monotonic seconds."""

    receipt: StageReceipt
    came_at: float


def held(receipts: Iterable[StageReceipt], now: float) -> tuple[HeldReceipt, ...]:
    """As they came with an answer, now."""
    return tuple(HeldReceipt(receipt, now) for receipt in receipts)


def handed_on(receipts: Iterable[HeldReceipt], now: float) -> tuple[StageReceipt, ...]:
    """As they go with the next answer, now."""
    return tuple(replace(one.receipt, ago_s=one.receipt.ago_s + now - one.came_at) for one in receipts)

"""Nobody waits for ever, however many come and go, and however urgent they are."""

import math

from hypothesis import given, settings
from hypothesis import strategies as st

from stages.contract.limits import BatchLimits, QueueLimits
from stages.contract.stage import Share
from stages.engine.scheduling.scheduler import Entry, IterativeScheduler, OneShotScheduler
from tests.stages.engine.scheduling.loads import AGEING_S, LONGEST_ABSENCE, keys, limits


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(keys, st.integers(-3, 3), st.sampled_from([1.0, 4.0, 9.0])), min_size=2, max_size=6),
    limits,
    st.lists(st.booleans(), min_size=1, max_size=7),
)
def test_no_row_sits_out_for_long_however_many_come_and_go(
    rows: list[tuple[str, int, float]], batch: BatchLimits, leaves: list[bool]
) -> None:
    """Rows that leave are replaced at once by urgent new ones, for 400 steps."""
    scheduler = IterativeScheduler[str](batch, QueueLimits())
    absent: dict[str, int] = {}
    shape: dict[str, tuple[str, int, float]] = {}

    def start(name: str, row: tuple[str, int, float]) -> None:
        scheduler.add(Entry(name, "", priority=row[1]))
        scheduler.start(name, Share(row[0], row[2]))
        shape[name], absent[name] = row, 0

    for number, row in enumerate(rows):
        start(f"{number}", row)
    for step in range(400):
        chosen = [entry.id for entry in scheduler.next_batch(0.0).entries]
        gone = [name for name in chosen if leaves[(step + int(name)) % len(leaves)]]
        scheduler.complete(chosen, 1.0, done=gone, shares={})
        for name in absent:
            absent[name] = 0 if name in chosen else absent[name] + 1
        for number, name in enumerate(gone):
            del absent[name]
            start(f"{1000 * (step + 1) + number}", (shape[name][0], -1, shape[name][2]))
        assert max(absent.values()) <= LONGEST_ABSENCE * len(rows)
        scheduler.check_integrity()


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 3),
    st.integers(0, 3),
    st.integers(1, 4),
    st.integers(1, 6),
    st.floats(0.05, 1.5),
    st.floats(0.1, 30),
)
def test_a_flood_of_more_urgent_items_delays_an_item_by_a_bounded_time(
    priority: int, advantage: int, max_items: int, flood: int, batch_s: float, deadline_in: float
) -> None:
    scheduler = OneShotScheduler[str](BatchLimits(max_items), QueueLimits(10**6), ageing_s=AGEING_S)
    scheduler.add(Entry("patient", "", "rare", priority=priority))
    now, serial = 0.0, 0
    waited_for = (advantage + 1) * AGEING_S  # whoever arrives later ranks behind it
    ahead = flood * (math.floor(waited_for / batch_s) + 1)  # so many arrive until then
    for _ in range(math.ceil(ahead / max_items) + math.ceil(waited_for / batch_s) + 2):
        for _ in range(flood):
            serial += 1
            scheduler.add(Entry(f"{serial}", "", "crowd", 1.0, priority - advantage, now + deadline_in + 1e4, now))
        chosen = [entry.id for entry in scheduler.next_batch(now).entries]
        if "patient" in chosen:
            return
        now += batch_s
        scheduler.complete(chosen, batch_s)
    raise AssertionError("it starved")

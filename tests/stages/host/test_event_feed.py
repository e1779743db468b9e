"""A stream's events, in which order and together with what they are handed over."""

import asyncio
import math

import pytest

from stages.contract.errors import StageFailed
from stages.contract.item import InputReceipts, StageReceipt, StreamEnd
from stages.host.event_feed import EventFeed
from stages.host.held_receipts import held

END = StageReceipt("m.llm")
MADE = held([StageReceipt("m.encoder")], 0.0)


def stages(event: object) -> list[str]:
    assert isinstance(event, InputReceipts)
    return [receipt.stage for receipt in event.receipts]


@pytest.mark.parametrize("pace_s", [0.0, math.inf])
async def test_what_is_at_hand_is_told_with_what_comes_next_and_is_no_news_by_itself(pace_s: float) -> None:
    feed = EventFeed()
    feed.at_hand(MADE)
    taking = asyncio.create_task(feed.take(pace_s))
    await asyncio.sleep(0)
    assert not taking.done()
    feed.events(["one"])
    feed.at_hand(MADE)
    feed.done(None, END)
    made, *events = await taking
    assert stages(made) == ["m.encoder"] * 2
    assert events == ["one", StreamEnd(END)]


async def test_a_failure_tells_what_was_at_hand_first() -> None:
    feed = EventFeed()
    feed.at_hand(MADE)
    feed.failed(StageFailed("it broke"))
    (made,) = await feed.take(math.inf)
    assert stages(made) == ["m.encoder"]
    with pytest.raises(StageFailed, match="it broke"):
        await feed.take(math.inf)


async def test_what_follows_a_failure_is_not_heard() -> None:
    feed = EventFeed()
    feed.events(["one"])
    feed.failed(StageFailed("it broke"))
    feed.events(["two"])
    feed.done(None, END)
    feed.failed(StageFailed("it broke again"))
    assert await feed.take(0.0) == ["one"]
    with pytest.raises(StageFailed, match=r"it broke$"):
        await feed.take(0.0)


async def test_what_follows_the_end_is_not_heard() -> None:
    feed = EventFeed()
    feed.done(None, END)
    feed.done(None, END)
    feed.failed(StageFailed("it broke"))
    assert await feed.take(0.0) == [StreamEnd(END)]

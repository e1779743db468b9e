"""Several streams as one: nothing is lost, the first error ends all, and whoever stops reading stops every stream."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

import pytest

from pipelines.streams import merged


class Source:
    """Gives its values, then ends, fails, or (neither) waits for ever. Knows whether it was closed."""

    def __init__(self, values: Sequence[int], *, ends: bool = True, fails: Exception | None = None) -> None:
        self._values, self._ends, self._fails = values, ends, fails
        self.closed = False
        self.given = asyncio.Event()  # all values

    async def stream(self) -> AsyncGenerator[int, None]:
        try:
            for value in self._values:
                yield value
            self.given.set()
            if self._fails is not None:
                raise self._fails
            if not self._ends:
                await asyncio.Event().wait()
        finally:
            self.closed = True


async def read(*sources: Source) -> list[int]:
    async with aclosing(merged([source.stream() for source in sources])) as values:
        return [value async for value in values]


async def test_every_value_comes_and_each_streams_in_their_order() -> None:
    found = await read(Source([1, 2, 3]), Source([]), Source([10, 20]))
    assert sorted(found) == [1, 2, 3, 10, 20]
    assert [value for value in found if value < 10] == [1, 2, 3]
    assert [value for value in found if value >= 10] == [10, 20]


async def test_nothing_of_nothing() -> None:
    assert await read() == []


async def test_the_first_error_ends_all_and_every_stream_is_closed() -> None:
    waiting, failing = Source([1], ends=False), Source([2], fails=ValueError("broken"))
    with pytest.raises(ValueError, match="broken"):
        await read(waiting, failing)
    assert waiting.closed
    assert failing.closed


async def test_whoever_stops_reading_stops_every_stream() -> None:
    sources = [Source([1, 2], ends=False), Source([3], ends=False)]
    async with aclosing(merged([source.stream() for source in sources])) as values:
        assert [await anext(values) for _ in range(3)]
    assert all(source.closed for source in sources)


async def test_whoever_is_cancelled_while_waiting_stops_every_stream() -> None:
    source = Source([1], ends=False)
    task = asyncio.create_task(read(source))
    await source.given.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert source.closed

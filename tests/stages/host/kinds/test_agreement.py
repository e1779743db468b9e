"""Who asks and who computes have read the same files, or the item is refused."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cache.memory import MemoryTier
from cache.tiered import TieredCache
from pipelines.agreement import AgreeingClient
from pipelines.client import LocalStageClient
from stages.checkpoints.checkpoint import Contents
from stages.contract.errors import ConfigurationError
from stages.contract.item import Item
from stages.contract.recipe import Recipe
from stages.host.host import StageHost
from stages.host.kinds import loading
from stages.host.kinds.registry import LoadedStage
from tests.stages.checkpoints.test_fingerprint import folder_of, spec_of
from tests.stages.fakes import Add, Adder, Countdown, CountFrom
from tests.stages.host.elsewhere import Elsewhere
from tests.stages.host.hosting import total

SEEN, NEWER = Contents("settings", "whole"), Contents("settings", "newer")


@pytest.fixture
async def host() -> AsyncIterator[StageHost]:
    host = StageHost(cache=TieredCache([MemoryTier(2**20)]))
    host.add("m.adder", Adder(), contents=SEEN)
    host.add("m.count", Countdown(), contents=SEEN)
    host.add("m.unknown", Adder())
    yield host
    await host.close()


async def streamed(client: AgreeingClient, payload: CountFrom) -> None:
    async for _ in client.stream("m.count", Item("r", payload)):
        pass


@pytest.mark.parametrize("read", ["settings", "whole"])
async def test_what_was_made_for_these_files_runs_and_what_was_made_for_others_is_refused(host: StageHost, read: str) -> None:
    mine = AgreeingClient(LocalStageClient(host), {"m.adder": read, "m.count": read})
    assert total(await mine.call("m.adder", Item("r", Add(2, 3), "n"))) == 5
    await streamed(mine, CountFrom(2))
    other = AgreeingClient(LocalStageClient(host), {"m.adder": "newer", "m.count": "newer"})
    with pytest.raises(ConfigurationError, match="adder was loaded from other files"):
        await other.call("m.adder", Item("r", Add(2, 3), "n"))  # though it is remembered
    with pytest.raises(ConfigurationError, match="count was loaded from other files"):
        await streamed(other, CountFrom(2))


async def test_who_says_nothing_of_it_and_who_does_not_know_are_not_refused(host: StageHost) -> None:
    assert total(await host.call("m.adder", Item("r", Add(2, 3)))) == 5
    assert total(await host.call("m.unknown", Item("r", Add(2, 3), made_for={"m.unknown": "x"}))) == 5


async def test_what_an_item_needs_is_made_for_the_same_files(host: StageHost) -> None:
    """Here and elsewhere: a stage behind another refuses by what the request was made for."""
    needing = CountFrom(2, plus=(Recipe("n", "m.adder", Add(1)),))
    with pytest.raises(ConfigurationError, match="adder was loaded"):
        await streamed(AgreeingClient(LocalStageClient(host), {"m.adder": "newer"}), needing)
    elsewhere = Elsewhere(host)
    asking = StageHost(elsewhere=elsewhere)
    asking.add("m.count", Countdown(), contents=SEEN)
    await streamed(AgreeingClient(LocalStageClient(asking), {"m.adder": "whole"}), needing)
    with pytest.raises(ConfigurationError, match="adder was loaded"):
        await streamed(AgreeingClient(LocalStageClient(asking), {"m.adder": "newer"}), needing)
    await asking.close()


async def test_replicas_with_unlike_weights_share_nothing(host: StageHost) -> None:
    """One tier, two hosts, as two machines with another file under one path are."""
    tier = MemoryTier(2**20)
    adders = [Adder(), Adder()]
    for adder, contents in zip(adders, (SEEN, NEWER), strict=True):
        replica = StageHost(cache=TieredCache([tier]))
        replica.add("m.adder", adder, contents=contents)
        assert (await replica.call("m.adder", Item("r", Add(2, 3), "n"))).receipt.cache == "miss"
        await replica.settled()
    assert [adder.batches for adder in adders] == [[[5]], [[5]]]
    assert tier.stats().entries == 2


def test_files_that_change_while_they_are_loaded_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = folder_of(tmp_path / "a")

    def slow_load(spec: object) -> LoadedStage:
        folder_of(folder, model=b"finetun" * 1000)
        return LoadedStage(Adder(), "float32")

    monkeypatch.setattr(loading, "load", slow_load)
    host = StageHost()
    with pytest.raises(ConfigurationError, match="changed while they were loaded"):
        loading.load_into(host, spec_of(folder))
    asyncio.run(host.close())

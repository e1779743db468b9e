"""A host of stages: calls, its names, its counters, its health and its end."""

import asyncio
import subprocess
import sys

import pytest

from cache.memory import MemoryTier
from cache.tier import TierStats
from cache.tiered import TieredCache
from stages.contract.engine import EngineIdentity
from stages.contract.errors import (
    Broken,
    ConfigurationError,
    InvalidRequest,
    QueueFull,
    StageFailed,
    Unavailable,
)
from stages.contract.item import Item
from stages.contract.limits import BatchLimits, QueueLimits
from stages.host.host import StageHost
from stages.host.remembered.origin import Origin, remembered_as
from tests.stages.fakes import Add, Adder, Countdown, CountFrom, FarTier, Gate
from tests.stages.host.hosting import collect, once, total


async def test_a_call_answers_with_a_value_and_a_receipt(host: StageHost) -> None:
    host.add("adder", Adder())
    reply = await host.call("adder", Item("1", Add(2, 3)))
    assert total(reply) == 5
    receipt = reply.receipt
    assert (receipt.stage, receipt.replica, receipt.device, receipt.cache) == ("adder", "r1", "cpu", "off")
    assert (receipt.steps, receipt.batch_size) == (1, 1.0)


async def test_calls_made_while_the_device_is_busy_share_the_next_batch(host: StageHost) -> None:
    stage = Adder(run_gate=Gate(closed=True))
    host.add("adder", stage)
    first = asyncio.create_task(host.call("adder", Item("0", Add(0, 0))))
    await asyncio.to_thread(stage.run_gate.wait_for, 1)
    rest = [asyncio.create_task(host.call("adder", Item(str(i), Add(i, 0)))) for i in range(1, 6)]
    await once(lambda: stage.num_prepared == 6)
    await once(lambda: host.load()["adder"].queued == 5)
    stage.run_gate.open()
    replies = await asyncio.gather(first, *rest)
    assert [total(reply) for reply in replies] == [0, 1, 2, 3, 4, 5]
    assert sum(len(batch) for batch in stage.batches) == 6
    assert len(stage.batches) <= 3


async def test_several_stages_live_in_one_host(host: StageHost) -> None:
    host.add("adder", Adder())
    host.add("other", Adder())
    host.add("count", Countdown())
    replies = await asyncio.gather(host.call("adder", Item("1", Add(1, 1))), host.call("other", Item("1", Add(2, 2))))
    assert [(reply.receipt.stage, total(reply)) for reply in replies] == [("adder", 2), ("other", 4)]
    assert len(await collect(host.stream("count", Item("1", CountFrom(2))))) == 3


@pytest.mark.parametrize("running", [True, False])
async def test_cancelling_the_task_withdraws_the_call(host: StageHost, running: bool) -> None:
    stage = Adder(run_gate=Gate(closed=True))
    host.add("adder", stage)
    first = asyncio.create_task(host.call("adder", Item("1", Add(1, 0))))
    await asyncio.to_thread(stage.run_gate.wait_for, 1)
    second = asyncio.create_task(host.call("adder", Item("2", Add(2, 0))))
    await once(lambda: stage.num_prepared == 2)
    gone, stays = (first, second) if running else (second, first)
    gone.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gone
    await once(lambda: host.metrics()[0].counters["cancelled_total"] == 1)
    stage.run_gate.open()
    await stays
    assert stage.batches == ([[1], [2]] if running else [[1]])


async def test_a_queues_bounds_change_while_it_serves(host: StageHost) -> None:
    stage = Adder(run_gate=Gate(closed=True))
    host.add("adder", stage, queue=QueueLimits(max_items=1))
    calls = [asyncio.create_task(host.call("adder", Item("1", Add(1, 0))))]
    await asyncio.to_thread(stage.run_gate.wait_for, 1)
    calls.append(asyncio.create_task(host.call("adder", Item("2", Add(2, 0)))))
    await once(lambda: host.load()["adder"].queued == 1)
    host.limit_queue("adder", QueueLimits(max_items=2))
    calls.append(asyncio.create_task(host.call("adder", Item("3", Add(3, 0)))))
    await once(lambda: host.load()["adder"].queued == 2)
    host.limit_queue("adder", QueueLimits(max_items=1))
    with pytest.raises(QueueFull, match=r"queue\.max_items is 1"):
        await host.call("adder", Item("4", Add(4, 0)))
    stage.run_gate.open()
    assert [total(await call) for call in calls] == [1, 2, 3]
    with pytest.raises(ConfigurationError, match="'nobody' is not hosted here"):
        host.limit_queue("nobody", QueueLimits())


async def test_a_full_queue_refuses_and_says_when_to_come_back(host: StageHost) -> None:
    stage = Adder(run_gate=Gate(closed=True))
    host.add("adder", stage, queue=QueueLimits(max_items=1))
    running = asyncio.create_task(host.call("adder", Item("1", Add(1, 0))))
    await asyncio.to_thread(stage.run_gate.wait_for, 1)
    waiting = asyncio.create_task(host.call("adder", Item("2", Add(2, 0))))
    await once(lambda: host.load()["adder"].queued == 1)
    with pytest.raises(QueueFull, match=r"queue\.max_items is 1") as refused:
        await host.call("adder", Item("3", Add(3, 0)))
    assert (refused.value.retry_after_s or 0) >= 1
    stage.run_gate.open()
    assert [total(reply) for reply in await asyncio.gather(running, waiting)] == [1, 2]


async def test_a_failure_leaves_no_trace_in_the_host(host: StageHost) -> None:
    host.add("adder", Adder())
    with pytest.raises(StageFailed, match="the device has bad luck"):
        await host.call("adder", Item("1", Add(13, 0)))
    with pytest.raises(InvalidRequest):
        await host.call("adder", Item("2", Add(0, 13)))
    assert host.load()["adder"].queued == host.load()["adder"].running == 0


async def test_unknown_stages_and_stages_of_the_other_kind_are_refused_by_name(host: StageHost) -> None:
    host.add("adder", Adder())
    host.add("count", Countdown())
    for name in ("nobody", "count"):
        with pytest.raises(ConfigurationError, match=rf"'{name}' is not hosted here.*of this kind: adder"):
            await host.call(name, Item("1", Add(1, 1)))
    for name in ("nobody", "adder"):
        with pytest.raises(ConfigurationError, match=rf"'{name}' is not hosted here.*of this kind: count"):
            await anext(host.stream(name, Item("1", CountFrom(1))))


async def test_a_name_is_taken_once(host: StageHost) -> None:
    host.add("adder", Adder())
    with pytest.raises(ConfigurationError, match="'adder' is hosted here already"):
        host.add("adder", Countdown())


async def test_what_is_no_stage_is_refused(host: StageHost) -> None:
    with pytest.raises(ConfigurationError, match="neither run nor step"):
        host.add("thing", object())  # type: ignore[arg-type]


async def test_metrics_have_every_counter_by_its_agreed_name(host: StageHost) -> None:
    host.add("adder", Adder())
    host.add("count", Countdown())
    for _ in range(2):
        await host.call("adder", Item("1", Add(1, 1), "n"))
        await host.settled()
    await collect(host.stream("count", Item("1", CountFrom(3))))
    adder, count = host.metrics()
    assert (adder.stage, adder.replica, adder.device) == ("adder", "r1", "cpu")
    assert set(adder.counters) == {
        "queued",
        "queued_tenants",
        "preparing",
        "running",
        "waiting_for_inputs",
        "missing_inputs_total",
        "continued_total",
        "items_total",
        "batches_total",
        "batch_items_total",
        "steps_total",
        "device_seconds_total",
        "cancelled_total",
        "failed_total",
        "expired_total",
        "rejected_total",
        "preempted_total",
        "preempted_for_others_total",
        "let_in_beyond_total",
        "out_of_memory_total",
        "batch_bound_items",
        "batch_bound_cost",
        "outstanding_amount",
        "outstanding_steps",
        "outstanding_seconds",
        "speed_factor",
        "finish_margin",
        "step_expected_seconds_total",
        "step_taken_seconds_total",
        "step_error_seconds_total",
        "finish_expected_seconds_total",
        "finish_taken_seconds_total",
        "finish_error_seconds_total",
        "cache_hits_memory_total",
        "cache_misses_total",
        "cache_joined_total",
        "cache_waits_total",
        "cache_wait_seconds_total",
        "cache_evictions_total",
        "cache_memory_bytes",
        "cache_errors_total",
        "cache_corrupt_total",
        "cache_memory_total_hits_total",
        "cache_memory_total_misses_total",
        "cache_memory_total_puts_total",
        "cache_memory_total_put_bytes_total",
        "cache_memory_total_dropped_total",
        "cache_memory_total_corrupt_total",
    }
    assert (adder.counters["items_total"], adder.counters["cache_hits_memory_total"]) == (1, 1)
    assert (count.counters["items_total"], count.counters["steps_total"]) == (1, 3)


async def test_what_the_cache_as_a_whole_counts_is_told_once() -> None:
    host = StageHost(cache=TieredCache([MemoryTier(1500)]))  # room for two small values
    for name in ("one", "two"):
        host.add(name, Adder())
    for n in range(5):
        await host.call("two", Item("1", Add(n, 1), f"n{n}"))
        await host.settled()
    assert [metrics.counters.get("cache_evictions_total") for metrics in host.metrics()] == [3, None]
    await host.close()


async def test_telling_metrics_never_waits_for_a_far_tier() -> None:
    class Slow(FarTier):
        def stats(self) -> TierStats:
            stats_gate.pass_through()
            return TierStats(errors=4, corrupt=2, is_down=True, opened=3)

    stats_gate = Gate(closed=True)
    host = StageHost(cache=TieredCache([Slow()]))
    host.add("adder", Adder())
    assert host.metrics()[0].counters["cache_errors_total"] == 0  # not known yet
    stats_gate.open()
    await once(lambda: host.metrics()[0].counters["cache_errors_total"] == 4)
    counters = host.metrics()[0].counters
    assert (counters["cache_corrupt_total"], counters["cache_redis_down"], counters["cache_redis_opened_total"]) == (2, 1, 3)
    await host.close()


async def test_load_tells_what_every_stage_has_in_hand(host: StageHost) -> None:
    adder, count = Adder(run_gate=Gate(closed=True)), Countdown(slots=1, gate=Gate(closed=True))
    host.add("adder", adder, batch=BatchLimits(max_items=1))
    host.add("count", count)
    calls = [asyncio.create_task(host.call("adder", Item(str(n), Add(1, 0)))) for n in range(2)]
    streams = [asyncio.create_task(collect(host.stream("count", Item(str(n), CountFrom(1))))) for n in range(3)]
    await asyncio.to_thread(adder.run_gate.wait_for, 1)
    await asyncio.to_thread(count.gate.wait_for, 1)
    load = host.load()
    assert (load["adder"].queued, load["adder"].running) == (1, 1)
    assert (load["count"].queued, load["count"].running) == (2, 1)
    adder.run_gate.open()
    count.gate.open()
    await asyncio.gather(*calls, *streams)


async def test_a_healthy_host_passes_its_check_and_a_closed_one_does_not() -> None:
    host = StageHost()
    host.add("adder", Adder())
    host.check()
    await host.close()
    with pytest.raises(Unavailable):
        host.check()


async def test_a_check_finds_every_stage_that_does_not_come_back() -> None:
    host, gates = StageHost(), [Gate(closed=True), Gate(closed=True)]
    for name, gate in zip(("one", "two"), gates, strict=True):
        host.add(name, Adder(run_gate=gate), max_step_s=0.001)
    calls = [asyncio.create_task(host.call(name, Item("1", Add(1)))) for name in ("one", "two")]
    for gate in gates:
        await asyncio.to_thread(gate.wait_for, 1)
    await once(lambda: not is_healthy(host) and all(call.done() for call in calls))
    errors = await asyncio.gather(*calls, return_exceptions=True)
    assert all(isinstance(error, Broken) for error in errors)
    for gate in gates:
        gate.open()
    await host.close()


def is_healthy(host: StageHost) -> bool:
    try:
        host.check()
    except Unavailable:
        return False
    return True


async def test_closing_ends_everything_with_unavailable() -> None:
    host = StageHost(cache=TieredCache([MemoryTier(2**20)]))
    adder, count = Adder(run_gate=Gate(closed=True)), Countdown(gate=Gate(closed=True))
    host.add("adder", adder)
    host.add("count", count)
    calls = [asyncio.create_task(host.call("adder", Item(str(n), Add(n, 0), "n" if n > 1 else None))) for n in range(4)]
    streams = [asyncio.create_task(collect(host.stream("count", Item(str(n), CountFrom(3))))) for n in range(6)]
    await asyncio.to_thread(adder.run_gate.wait_for, 1)
    await asyncio.to_thread(count.gate.wait_for, 1)
    closing = asyncio.create_task(host.close())
    answers = await asyncio.gather(*calls, *streams, return_exceptions=True)
    assert [type(answer) for answer in answers] == [Unavailable] * 10
    assert not closing.done()  # the devices are still at their last step
    adder.run_gate.open()
    count.gate.open()
    await closing
    assert count.running == []
    for request in (host.call("adder", Item("9", Add(1, 1))), anext(host.stream("count", Item("9", CountFrom(1))))):
        with pytest.raises(Unavailable):
            await request
    await host.close()


def test_hosting_stages_imports_no_model_library_and_no_ray() -> None:
    code = "import sys, stages.host.host; print([name for name in ('torch', 'transformers', 'ray') if name in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


async def test_closing_the_host_closes_its_cache() -> None:
    tier = MemoryTier(2**20)
    host = StageHost(cache=TieredCache([tier]))
    host.add("adder", Adder())
    await host.call("adder", Item("1", Add(1, 1), "n"))
    await host.close()
    assert tier.get_many([remembered_as("n", Origin.of(EngineIdentity("adder", "cpu"), "").key)]) == {}


async def test_a_host_made_before_the_loop_runs_serves_on_it() -> None:
    host = await asyncio.to_thread(StageHost)
    await asyncio.to_thread(host.add, "adder", Adder())
    assert total(await host.call("adder", Item("1", Add(2, 2)))) == 4
    await host.close()

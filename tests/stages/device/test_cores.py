"""The cores of a machine among the stages that compute on it: how many threads each takes, who counts, and what the dead leave."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from stages.contract.item import Item
from stages.device.cores import CoreTable, Seat, available_cores, threads_for
from stages.host.host import StageHost
from tests.stages.fakes import Adder, Gate

COMPUTES_UNTIL_KILLED = """
import sys
from pathlib import Path
from stages.device.cores import CoreTable
CoreTable(Path(sys.argv[1]), num_cores=2).seat(2, set_threads=lambda count: None).take()
print("computing", flush=True)
sys.stdin.read()
"""


class Stage:
    """A seat, and the numbers of threads that it was told."""

    def __init__(self, table: CoreTable, wanted: int) -> None:
        self.counts: list[int] = []
        seat = table.seat(wanted, set_threads=self.counts.append)
        assert seat is not None
        self.seat: Seat = seat


@given(st.lists(st.integers(1, 64), min_size=1, max_size=12), st.integers(1, 64))
def test_the_cores_suffice_for_all_or_each_has_its_part(wanted: list[int], num_cores: int) -> None:
    parts = [threads_for(one, sum(wanted) - one, num_cores) for one in wanted]
    if sum(wanted) <= num_cores:
        assert parts == wanted
    assert all(1 <= part <= one for part, one in zip(parts, wanted, strict=True))
    assert sum(part for part in parts if part > 1) <= num_cores  # the others have the least there is


def test_alone_with_all_beside_others_with_its_part_and_alone_again(tmp_path: Path) -> None:
    table, other_process = (CoreTable(tmp_path / "cores", num_cores=2) for _ in range(2))
    llm, denoiser = Stage(table, 2), Stage(other_process, 2)
    llm.seat.take()
    denoiser.seat.take()
    llm.seat.take()
    denoiser.seat.leave()
    llm.seat.take()
    llm.seat.take()
    assert llm.counts == [2, 1, 2]
    assert denoiser.counts == [1]


def test_stages_of_one_process_count_each_other(tmp_path: Path) -> None:
    table = CoreTable(tmp_path / "cores", num_cores=4)
    stages = [Stage(table, 4), Stage(table, 4)]
    for stage in (*stages, stages[0]):
        stage.seat.take()
    assert [stage.counts for stage in stages] == [[4, 2], [2]]


def test_a_closed_seat_is_free_for_the_next(tmp_path: Path) -> None:
    table = CoreTable(tmp_path / "cores", num_cores=2)
    for _ in range(1_000):
        stage = Stage(table, 2)
        stage.seat.take()
        stage.seat.close()
        assert stage.counts == [2]


def test_who_was_killed_in_the_middle_of_a_step_takes_no_cores(tmp_path: Path) -> None:
    path = tmp_path / "cores"
    ours = Stage(CoreTable(path, num_cores=2), 2)
    command = [sys.executable, "-c", COMPUTES_UNTIL_KILLED, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "computing\n"
        ours.seat.take()
        other.kill()
    ours.seat.take()
    assert ours.counts == [1, 2]


async def test_a_hosted_stage_on_the_cpu_takes_its_part_and_leaves_when_idle(tmp_path: Path) -> None:
    path = tmp_path / "cores"
    table, watching = CoreTable(path, num_cores=2), CoreTable(path, num_cores=2)
    gate = Gate(closed=True)
    host = StageHost(cores=table, torch_threads=1)
    host.add("adder", Adder(run_gate=gate))
    watcher = Stage(watching, 2)
    call = asyncio.create_task(host.call("adder", Item("a", (1, 2))))
    await asyncio.to_thread(gate.wait_for, 1)
    watcher.seat.take()
    gate.open()
    await call
    await host.close()
    watcher.seat.take()
    assert watcher.counts == [1, 2]


def test_a_process_may_use_no_more_cores_than_it_may_run_on() -> None:
    allowed = os.sched_getaffinity(0)
    code = (
        "import os; os.sched_setaffinity(0, {%d}); from stages.device.cores import available_cores; print(available_cores())"
    )
    one = subprocess.run([sys.executable, "-c", code % min(allowed)], capture_output=True, text=True, check=True)
    assert int(one.stdout) == 1
    assert 1 <= available_cores() <= len(allowed)

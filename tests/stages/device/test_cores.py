"""The cores of a machine among the stages that compute on it: how many threads each takes, who counts, and what the dead leave."""

import os
import subprocess
import sys
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from stages.device.cores import CoreLease, SharedCores, available_cores, threads_for
from tests.stages.bench import submit, workbench
from tests.stages.fakes import Add, Adder

COMPUTES_UNTIL_KILLED = """
import sys
from pathlib import Path
from stages.device.cores import SharedCores
SharedCores(Path(sys.argv[1]), num_cores=2).lease(2, set_threads=lambda count: None).take()
print("computing", flush=True)
sys.stdin.read()
"""


class Stage:
    """A lease, and the numbers of threads that it was told."""

    def __init__(self, cores: SharedCores, wanted: int) -> None:
        self.counts: list[int] = []
        lease = cores.lease(wanted, set_threads=self.counts.append)
        assert lease is not None
        self.lease: CoreLease = lease


@given(st.lists(st.integers(1, 64), min_size=1, max_size=12), st.integers(1, 64))
def test_the_cores_suffice_for_all_or_each_has_its_part(wanted: list[int], num_cores: int) -> None:
    parts = [threads_for(one, sum(wanted) - one, num_cores) for one in wanted]
    if sum(wanted) <= num_cores:
        assert parts == wanted
    assert all(1 <= part <= one for part, one in zip(parts, wanted, strict=True))
    assert sum(part for part in parts if part > 1) <= num_cores  # the others have the least there is


def test_alone_with_all_beside_others_with_its_part_and_alone_again(tmp_path: Path) -> None:
    cores, other_process = (SharedCores(tmp_path / "cores", num_cores=2) for _ in range(2))
    llm, denoiser = Stage(cores, 2), Stage(other_process, 2)
    llm.lease.take()
    denoiser.lease.take()
    llm.lease.take()
    denoiser.lease.leave()
    llm.lease.take()
    llm.lease.take()
    assert llm.counts == [2, 1, 2]
    assert denoiser.counts == [1]


def test_stages_of_one_process_count_each_other(tmp_path: Path) -> None:
    cores = SharedCores(tmp_path / "cores", num_cores=4)
    stages = [Stage(cores, 4), Stage(cores, 4)]
    for stage in (*stages, stages[0]):
        stage.lease.take()
    assert [stage.counts for stage in stages] == [[4, 2], [2]]


def test_a_closed_lease_is_free_for_the_next(tmp_path: Path) -> None:
    cores = SharedCores(tmp_path / "cores", num_cores=2)
    for _ in range(1_000):
        stage = Stage(cores, 2)
        stage.lease.take()
        stage.lease.close()
        assert stage.counts == [2]


def test_who_was_killed_in_the_middle_of_a_step_takes_no_cores(tmp_path: Path) -> None:
    path = tmp_path / "cores"
    ours = Stage(SharedCores(path, num_cores=2), 2)
    command = [sys.executable, "-c", COMPUTES_UNTIL_KILLED, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "computing\n"
        ours.lease.take()
        other.kill()
    ours.lease.take()
    assert ours.counts == [1, 2]


def test_a_stage_takes_its_part_for_as_long_as_it_computes(tmp_path: Path) -> None:
    path = tmp_path / "cores"
    ours, watcher = Stage(SharedCores(path, num_cores=2), 1), Stage(SharedCores(path, num_cores=2), 2)
    with workbench() as bench:
        stage = Adder(run_gate=bench.gate())
        engine = bench.one_shot(stage, cores=ours.lease)
        inbox, _ = submit(engine, Add(1))
        stage.run_gate.wait_for(1)
        watcher.lease.take()
        assert watcher.counts == [1]
        stage.run_gate.open()
        assert inbox.total == 1
    watcher.lease.take()
    assert watcher.counts == [1, 2]
    assert ours.counts == [1]


def test_a_process_may_use_no_more_cores_than_it_may_run_on() -> None:
    allowed = os.sched_getaffinity(0)
    code = (
        "import os; os.sched_setaffinity(0, {%d}); from stages.device.cores import available_cores; print(available_cores())"
    )
    one = subprocess.run([sys.executable, "-c", code % min(allowed)], capture_output=True, text=True, check=True)
    assert int(one.stdout) == 1
    assert 1 <= available_cores() <= len(allowed)

"""Plans of large fleets: what is solved doesn't grow with the devices, and is solved to the gap that was asked for."""

from benchmarks.planner import fleet
from pipelines.planning.fleet import Rules
from pipelines.planning.planner import plan
from pipelines.planning.solving.columns import columns
from pipelines.planning.solving.program import Asked, written
from pipelines.planning.solving.search import Patience

STOPPED = Patience(time_limit_s=1000, gap=1e-3, clock=lambda: 0.0)


def test_a_program_for_ten_thousand_devices_is_no_larger_than_one_for_a_thousand() -> None:
    sizes = []
    for num_devices in (1_000, 10_000):
        needed = fleet(num_devices, seed=1)
        program = written(needed, Rules(), columns(needed, Rules()), Asked())
        sizes.append((len(program.rows.cost), len(program.rows.rows)))
    assert sizes[1][0] <= sizes[0][0]
    assert sizes[1][1] <= sizes[0][1]


def test_ten_thousand_devices_of_eight_types_are_planned_to_within_a_thousandth_of_the_bound() -> None:
    found = plan(fleet(10_000, seed=0), patience=STOPPED)
    assert found.gap <= 1e-3
    assert found.bound >= found.rate
    assert all(use.utilisation > 0.75 for use in found.devices if use.used == use.count)

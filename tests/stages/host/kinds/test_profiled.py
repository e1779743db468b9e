"""A stage whose speed was measured beforehand knows it before its first item."""

from stages.contract.work import Work
from stages.engine.scheduling.learned_speed import MeasuredSteps
from stages.host.host import StageHost
from stages.host.kinds.loading import _measured
from stages.profiles.profile import Point, StageProfile
from stages.profiles.profile_files import Profiles
from tests.stages.fakes import Adder

PROFILE = StageProfile(
    "m.adder", "vae_decoder", "fake", "ab" * 32, "NVIDIA L4", "float16", (Point(1, 2.0, 0.5), Point(2, 4.0, 0.75)), 1, 1
)


def test_its_own_profile_is_found_by_the_files_it_was_loaded_from() -> None:
    profiles = Profiles((PROFILE,))
    assert _measured(profiles, "other.name", "NVIDIA L4", "float16", "ab" * 32) == MeasuredSteps(PROFILE.step_times)
    assert _measured(profiles, "m.adder", "NVIDIA L4", "float16", "cd" * 32) is None
    assert _measured(Profiles(), "m.adder", "NVIDIA L4", "float16", "ab" * 32) is None


def test_another_devices_profile_is_an_estimate() -> None:
    found = _measured(Profiles((PROFILE,)), "m.adder", "NVIDIA H100 80GB HBM3", "float16", "ab" * 32)
    assert found is not None
    assert found.is_estimate
    assert found.times.seconds(2.0) < 0.5


async def test_a_host_tells_the_speed_that_was_measured_before_anything_has_run() -> None:
    host = StageHost()
    try:
        host.add("m.adder", Adder(), measured=MeasuredSteps(PROFILE.step_times, is_estimate=True))
        load = host.load()["m.adder"]
        assert load.speed is not None
        assert (load.speed.finish_s(Work(2.0)), load.speed.is_estimate, load.speed.is_one_shot) == (0.5, True, True)
    finally:
        await host.close()

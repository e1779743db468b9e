"""Profiles: from measured points to speeds, in files and back, and reckoned for devices that are not at hand."""

import itertools
import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.contract.errors import ConfigurationError
from stages.profiles.datasheets import datasheet_of, datasheets
from stages.profiles.estimate import estimated
from stages.profiles.profile import Point, StageProfile, fitted
from stages.profiles.profile_files import Measured, Profiles, read_profile_file, read_profiles, write_profile_file

MEASURED = Measured(machine="a test", num_cpus=2, day="2026-01-01", versions={"torch": "2"})


def profile(**changes: object) -> StageProfile:
    points = (Point(1, 100, 0.012, 0.01), Point(2, 200, 0.014), Point(4, 400, 0.018))
    given = StageProfile("sd.denoiser", "denoiser", "diffusers", "ab" * 32, "NVIDIA L4", "float16", points, 2 * 10**9, 10**7)
    return replace(given, **changes)  # type: ignore[arg-type]


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    several = [
        profile(),
        profile(stage="chat.llm", kind="llm", loader="transformers", is_estimate=True, load_s=3.5, source="x"),
    ]
    write_profile_file(tmp_path / "l4.json", several, MEASURED)
    assert list(read_profile_file(tmp_path / "l4.json")) == sorted(several, key=lambda one: one.stage)
    assert read_profiles(tmp_path).known == read_profiles(tmp_path / "l4.json").known
    assert read_profiles(tmp_path / "not there") == Profiles()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda file: file.update(format=2), "format"),
        (lambda file: file["profiles"][0].update(speed=1), "profiles.0.speed"),
        (lambda file: file["profiles"][0].pop("dtype"), "profiles.0.dtype"),
        (lambda file: file["profiles"][0]["points"][0].update(seconds=0), "profiles.0.points.0.seconds"),
        (lambda file: file["profiles"][0].update(points=[]), "profiles.0.points"),
    ],
)
def test_a_file_of_another_form_is_refused_by_the_field(tmp_path: Path, change: object, told: str) -> None:
    path = tmp_path / "l4.json"
    write_profile_file(path, [profile()], MEASURED)
    file = json.loads(path.read_text())
    change(file)  # type: ignore[operator]
    path.write_text(json.dumps(file))
    with pytest.raises(ConfigurationError, match=f"l4.json: {told}"):
        read_profiles(path)


def test_a_file_that_is_named_and_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"gone\.json cannot be read"):
        read_profiles(tmp_path / "gone.json")


@given(st.lists(st.tuples(st.integers(1, 6), st.floats(0.001, 10)), min_size=1))
def test_fitted_times_never_fall_and_hit_what_rises_already(measured: list[tuple[int, float]]) -> None:
    points = [Point(1, float(amount), seconds) for amount, seconds in measured]
    times = fitted(points)
    seconds = [times.seconds(amount) for amount in sorted({one.amount for one in points})]
    assert all(later >= sooner * (1 - 1e-9) for sooner, later in itertools.pairwise(seconds))
    rising = [Point(1, one.amount, one.amount / 100) for one in points]
    assert all(fitted(rising).seconds(one.amount) == pytest.approx(one.seconds) for one in rising)


def test_a_speed_has_the_measured_times_and_its_kind() -> None:
    speed = profile().speed(max_rows=4, max_amount=400)
    assert (speed.step_s(200), speed.is_one_shot, speed.is_estimate) == (0.014, False, False)
    assert profile(kind="vae_decoder").speed(4, 400).is_one_shot
    assert profile(is_estimate=True).speed(4, 400).is_estimate


def test_a_device_goes_by_torchs_name_and_by_rays() -> None:
    assert datasheet_of("NVIDIA L4") is datasheet_of("L4") is datasheet_of("l4") is not None
    assert datasheet_of("cpu") is None
    names = [name for sheet in datasheets() for name in sheet.names]
    assert len(names) == len(set(names))
    assert all(sheet.source.startswith("https://") and sheet.flops["float32"] > 1e12 for sheet in datasheets())


def test_an_estimate_scales_the_base_by_bandwidth_and_the_slope_by_arithmetic() -> None:
    l4, h100 = datasheet_of("L4"), datasheet_of("H100")
    assert l4 is not None
    assert h100 is not None
    found = estimated(profile(), l4, h100)
    assert found is not None
    assert found.is_estimate
    assert found.device == "NVIDIA H100 80GB HBM3"
    reading, computing = 300 / 3350, 121 / 989
    expected = [0.010 * reading + 0.002 * factor * computing for factor in (1, 2, 4)]
    assert [point.seconds for point in found.points] == pytest.approx(expected)
    assert found.weights_bytes == profile().weights_bytes


def test_an_estimate_in_a_wider_dtype_reads_twice_as_much() -> None:
    l4 = datasheet_of("L4")
    assert l4 is not None
    found = estimated(profile(), l4, l4, "float32")
    assert found is not None
    assert found.weights_bytes == 2 * profile().weights_bytes
    assert found.points[0].seconds == pytest.approx(0.010 * 2 + 0.002 * 121 / 30.3)
    assert estimated(profile(), l4, l4, "int4") is None


def test_a_stage_is_found_by_its_fingerprint_or_by_its_name() -> None:
    known = Profiles((profile(), profile(device="NVIDIA H100 80GB HBM3", stage="other.denoiser")))
    assert known.of("sd.denoiser", "NVIDIA L4", "float16") == profile()
    assert known.of("whatever", "NVIDIA L4", "float16", fingerprint="ab" * 32) == profile()
    assert known.of("sd.denoiser", "NVIDIA L4", "float16", fingerprint="cd" * 32) is None
    assert known.measured("ab" * 32, "NVIDIA L4", "float16") == profile()
    assert known.measured("ab" * 32, "NVIDIA L4", "bfloat16") is None


def test_what_was_measured_on_the_nearest_device_is_reckoned_from() -> None:
    slow, fast = profile(device="Tesla T4"), profile(device="NVIDIA A100-SXM4-80GB")
    known = Profiles((slow, fast))
    found = known.of("sd.denoiser", "H100", "float16")
    fast_sheet, h100 = datasheet_of("A100-80G"), datasheet_of("H100")
    assert fast_sheet is not None
    assert h100 is not None
    assert found == estimated(fast, fast_sheet, h100)
    assert known.of("sd.denoiser", "cpu", "float16") is None
    assert known.of("sd.denoiser", "H200", "float32").dtype == "float32"  # type: ignore[union-attr]

"""`triptych profile`, as a person runs it: which stages are measured, at which size, and what becomes of what the file held. How a stage is
measured is `tests/stages/measuring/`."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipelines.cli import app
from pipelines.commands import profile
from pipelines.commands.console import DEFAULT_CONFIG
from pipelines.settings.config_file import load
from stages.host.kinds.registry import StageSpec
from stages.profiles.profile import Point, StageProfile
from stages.profiles.profile_files import Measured, read_profile_file, write_profile_file

STAGES = tuple(load(DEFAULT_CONFIG).app.stage_names())
LLM, PAINTER = "triptych-see.llm", "triptych-paint.denoiser"


def of(stage: str, seconds: float, device: str = "cpu") -> StageProfile:
    return StageProfile(stage, stage.partition(".")[2], "", "", device, "float32", (Point(1, 1.0, seconds),), 2**20, 2**10)


class Measuring:
    """In place of a device: a step of every stage takes two seconds. `breaks`: the stage that can't be loaded."""

    def __init__(self) -> None:
        self.sizes: dict[str, tuple[int, int] | None] = {}
        self.seconds: set[float] = set()
        self.breaks = ""

    def profiled(self, spec: StageSpec, size: tuple[int, int] | None, seconds: float) -> StageProfile:
        if spec.name == self.breaks:
            raise MemoryError("no room")
        self.sizes[spec.name] = size
        self.seconds.add(seconds)
        return of(spec.name, 2.0)


@pytest.fixture
def measuring(monkeypatch: pytest.MonkeyPatch) -> Measuring:
    made = Measuring()
    monkeypatch.setattr(profile, "profiled", made.profiled)
    monkeypatch.setattr(profile, "limit_threads", lambda count: None)  # of this process, which has other tests to run
    return made


def run(out: Path, *more: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["profile", "--out", str(out), *more], env={"COLUMNS": "200"})
    return result.exit_code, result.output


def kept(out: Path) -> dict[tuple[str, str], float]:
    return {(one.stage, one.device): one.points[0].seconds for one in read_profile_file(out)}


def test_every_stage_is_measured_and_a_painter_at_the_size_that_it_paints(measuring: Measuring, tmp_path: Path) -> None:
    code, output = run(tmp_path / "new" / "here.json", "--seconds", "0.5")
    assert code == 0, output
    assert set(measuring.sizes) == set(STAGES)
    assert (measuring.sizes[PAINTER], measuring.sizes[LLM], measuring.seconds) == ((64, 64), None, {0.5})
    assert kept(tmp_path / "new" / "here.json") == {(stage, "cpu"): 2.0 for stage in STAGES}
    assert "2000.00 ms" in output


def test_what_the_file_holds_of_other_stages_and_devices_stays(measuring: Measuring, tmp_path: Path) -> None:
    out = tmp_path / "here.json"
    earlier = [of(LLM, 7.0), of(LLM, 7.0, "NVIDIA L4"), of("another.llm", 7.0)]
    write_profile_file(out, earlier, Measured(machine="x", num_cpus=1, day="2026-01-01", versions={}))
    code, output = run(out, "--stage", LLM)
    assert code == 0, output
    assert kept(out) == {(LLM, "cpu"): 2.0, (LLM, "NVIDIA L4"): 7.0, ("another.llm", "cpu"): 7.0}


def test_what_was_measured_before_a_stage_failed_is_written(measuring: Measuring, tmp_path: Path) -> None:
    measuring.breaks = PAINTER
    code, _ = run(tmp_path / "here.json", "--stage", LLM, "--stage", PAINTER)
    assert code != 0
    assert kept(tmp_path / "here.json") == {(LLM, "cpu"): 2.0}


def test_an_unknown_stage_and_a_file_that_is_none_are_refused_before_anything_is_measured(
    measuring: Measuring, tmp_path: Path
) -> None:
    code, output = run(tmp_path / "here.json", "--stage", "triptych-see.painter")
    assert code != 0
    assert "'triptych-see.painter' is not one of" in output
    assert LLM in output
    (tmp_path / "broken.json").write_text('{"format": 1}')
    code, output = run(tmp_path / "broken.json", "--stage", LLM)
    assert code != 0
    assert "broken.json: measured: Field required" in output
    assert not measuring.sizes

"""`triptych plan`, as a person runs it."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipelines.cli import app
from pipelines.commands.console import DEFAULT_CONFIG
from pipelines.settings.config_file import load
from stages.profiles.profile import Point, StageProfile
from stages.profiles.profile_files import Measured, write_profile_file

CLUSTER = "devices: {L4: {count: 4, per_node: 2, price_per_hour: 1}, H100: {count: 1, price_per_hour: 6}}"
MIX = """
classes:
  chat: {model: triptych-see, rate: 3, prompt_tokens: 100, images: 1, image_patches: 49, image_tokens: 49, answer_tokens: 50}
  paint: {model: triptych-paint, rate: 1, size: 64x64, steps: 20, slo: {total_s: 60}}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "cluster.yaml").write_text(CLUSTER)
    (tmp_path / "mix.yaml").write_text(MIX)
    found = [
        StageProfile(
            stage,
            stage.partition(".")[2],
            "",
            "",
            "NVIDIA L4",
            "float16",
            tuple(Point(n, 50 * n, 0.02 + 0.002 * n) for n in (1, 16)),
            2**30,
            2**20,
        )
        for stage in load(DEFAULT_CONFIG).app.stage_names()
    ]
    write_profile_file(
        tmp_path / "profiles" / "l4.json", found, Measured(machine="x", num_cpus=1, day="2026-01-01", versions={})
    )
    return tmp_path


def planned(folder: Path, *more: str) -> tuple[int, str]:
    given = {"inventory": "cluster.yaml", "workload": "mix.yaml", "profiles": "profiles"}
    options = [part for name, file in given.items() for part in (f"--{name}", str(folder / file))]
    result = CliRunner().invoke(app, ["plan", *options, "--time-limit", "3", *more], env={"COLUMNS": "200"})
    return result.exit_code, result.output


def test_a_plan_is_shown_with_what_limits_it_what_more_would_bring_and_how_good_it_can_be(folder: Path) -> None:
    code, output = planned(folder)
    assert code == 0, output
    for words in (
        "requests a second at 75% of the devices' time",
        "no plan does better than",
        "what limits the rate:",
        "what one more device would bring: solved again",
        "llm (8)",
    ):
        assert words in output
    assert "reckoned from datasheets, not measured" in output  # of the H100


def test_what_is_written_passes_check_and_has_its_reasons_beside_it(folder: Path) -> None:
    out = folder / "planned.yaml"
    code, output = planned(folder, "--out", str(out), "--json")
    assert code == 0, output
    told = json.loads(output)
    assert told == json.loads((folder / "planned.plan.json").read_text())
    assert told["kind"] == "triptych-plan"
    assert {pool["pool"] for pool in told["pools"]} == set(load(out).app.deployments)
    checked = CliRunner().invoke(app, ["check", "--config", str(out)])
    assert checked.exit_code == 0, checked.output
    explained = CliRunner().invoke(app, ["explain", str(folder / "planned.plan.json")])
    assert explained.exit_code == 0, explained.output


def test_the_least_cost_is_for_a_rate_or_for_the_workloads_own(folder: Path) -> None:
    for options, rate in ((["--rate", "8"], 8), (["--cost"], 4)):
        code, output = planned(folder, "--json", *options)
        assert code == 0, output
        assert json.loads(output)["rate"] == pytest.approx(rate)
        assert json.loads(output)["goal"] == "cost"


def test_what_is_impossible_is_told_and_the_exit_code_is_2(folder: Path) -> None:
    code, output = planned(folder, "--slo", "paint.total_s=0.01")
    assert code == 2
    assert "paint: total_s 0.01 s: at the quickest, in the smallest batches, it is" in output

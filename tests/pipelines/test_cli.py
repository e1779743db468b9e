"""`triptych check`, as a person runs it."""

from pathlib import Path

import yaml
from typer.testing import CliRunner

from pipelines.cli import DEFAULT_CONFIG, app


def checked(path: Path) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["check", "--config", str(path)])
    return result.exit_code, result.output


def test_a_sound_configuration_is_shown_with_what_was_derived() -> None:
    code, output = checked(DEFAULT_CONFIG)
    assert code == 0
    assert "vae: triptych-paint.vae_decoder, triptych-paint.vae_encoder" in output
    assert "  models.triptych-see.llm.batch.max_items: 8 (num_slots)\n" in output
    assert "  deployments.llm.max_ongoing_requests: 16 (" in output


def test_settings_that_do_not_fit_are_told_and_the_exit_code_is_2(tmp_path: Path) -> None:
    document = yaml.safe_load(DEFAULT_CONFIG.read_text())
    document["applications"][0]["args"]["deployments"]["llm"]["max_ongoing_requests"] = 4
    path = tmp_path / "serve_config.yaml"
    path.write_text(yaml.safe_dump(document))
    code, output = checked(path)
    assert code == 2
    assert "deployments.llm.max_ongoing_requests: 4 is less than one batch of triptych-see.llm" in output


def test_prepare_says_which_stage_has_no_files_to_load(tmp_path: Path) -> None:
    path = tmp_path / "serve_config.yaml"
    path.write_text(DEFAULT_CONFIG.read_text().replace("{demo: smollm2}", f"{{folder: {tmp_path / 'missing'}}}", 1))
    result = CliRunner().invoke(app, ["prepare", "--config", str(path)])
    assert result.exit_code == 2
    assert "missing" in result.output
    assert "not a folder" in result.output

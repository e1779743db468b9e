"""`triptych check`, as a person runs it."""

import os
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from pipelines.cli import app
from pipelines.commands.console import DEFAULT_CONFIG
from pipelines.free_port import free_port


def checked(path: Path) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["check", "--config", str(path)])
    return result.exit_code, result.output


def test_a_sound_configuration_is_shown_with_what_was_derived() -> None:
    code, output = checked(DEFAULT_CONFIG)
    assert code == 0
    assert "vae: triptych-paint.vae_decoder, triptych-paint.vae_encoder" in output
    assert "  models.triptych-see.llm.batch.max_items: 8 (num_slots)\n" in output
    assert "  deployments.llm.max_ongoing_requests: 392 (" in output


def test_the_pools_of_a_stage_are_shown_with_what_is_to_be_minded_of_them(tmp_path: Path) -> None:
    document = yaml.safe_load(DEFAULT_CONFIG.read_text())
    stage = "triptych-paint.denoiser"
    document["applications"][0]["args"]["deployments"]["denoiser-l4"] = {
        "stages": [stage],
        "overrides": {stage: {"dtype": "float16", "batch": {"max_items": 4}}},
        "ray_actor_options": {"accelerator_type": "L4", "num_gpus": 0.5},
    }
    path = tmp_path / "serve_config.yaml"
    path.write_text(yaml.safe_dump(document))
    code, output = checked(path)
    assert code == 0
    assert f"{stage} in denoiser-l4: on 0.5 x L4, dtype float16, 4 at a time\n" in output
    assert f"mind: {stage} has pools of unlike dtypes" in output


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


def changed(tmp_path: Path, **limits: int) -> Path:
    document = yaml.safe_load(DEFAULT_CONFIG.read_text())
    args = document["applications"][0]["args"]
    args["limits"] |= limits
    args["models"]["triptych-see"]["llm"]["num_slots"] = 4
    path = tmp_path / "serve_config.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


def test_check_says_what_a_change_would_restart(tmp_path: Path) -> None:
    path = changed(tmp_path, image_bytes=4096)
    result = CliRunner().invoke(app, ["check", "--config", str(path), "--from", str(DEFAULT_CONFIG)])
    assert result.exit_code == 0
    lines = result.output.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("llm: restarts, new replicas first (args.stages.triptych-see.llm.")
    assert lines[1].startswith("ingress: changed in place (user_config.config.")


def test_check_compares_what_revisions_mean_as_deploy_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commits = {"main": "1" * 40, "v1": "1" * 40, "v2": "2" * 40}
    monkeypatch.setattr("pipelines.settings.pinning.commit_of", lambda repository, revision: commits[revision])
    paths = {revision: tmp_path / f"{revision}.yaml" for revision in commits}
    for revision, path in paths.items():
        text = DEFAULT_CONFIG.read_text()
        path.write_text(text.replace("{demo: smollm2}", f"{{hub: org/name, revision: {revision}}}", 1))

    def told(before: str, after: str) -> str:
        return CliRunner().invoke(app, ["check", "--config", str(paths[after]), "--from", str(paths[before])]).output

    assert told("main", "v1") == "nothing changes\n"
    assert "llm: replaced, the old one goes after its last request (" in told("v1", "v2")


def test_check_says_where_nothing_changes() -> None:
    result = CliRunner().invoke(app, ["check", "--from", str(DEFAULT_CONFIG)])
    assert (result.exit_code, result.output) == (0, "nothing changes\n")


def test_deploy_prints_a_config_that_serve_accepts() -> None:
    from ray.serve.schema import ServeDeploySchema

    result = CliRunner().invoke(app, ["deploy", "--print"])
    assert result.exit_code == 0
    printed = ServeDeploySchema.model_validate(yaml.safe_load(result.output))
    assert [application.name for application in printed.applications if application.route_prefix] == ["triptych"]


@pytest.mark.parametrize(
    "how", [["deploy"], ["deploy", "--print"], ["check"], ["check", "--from", str(DEFAULT_CONFIG)], ["serve"]]
)
@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.2", "models.example"])
def test_an_open_door_is_refused_before_anything_is_looked_for_or_started(tmp_path: Path, how: list[str], host: str) -> None:
    path = tmp_path / "serve_config.yaml"
    path.write_text(DEFAULT_CONFIG.read_text().replace("host: 127.0.0.1", f"host: '{host}'"))
    result = CliRunner().invoke(app, [how[0], "--config", str(path), *how[1:]])
    assert result.exit_code == 2
    assert "auth.keys is empty" in result.output


def test_another_address_of_loopback_needs_no_keys(tmp_path: Path) -> None:
    path = tmp_path / "serve_config.yaml"
    path.write_text(DEFAULT_CONFIG.read_text().replace("host: 127.0.0.1", "host: 127.0.0.2"))
    assert checked(path)[0] == 0


@pytest.mark.parametrize("way", ["RAY_SERVE_ENABLE_HA_PROXY", "RAY_SERVE_ENABLE_DIRECT_INGRESS"])
def test_serve_refuses_ways_past_serves_own_proxy_by_name_before_anything_starts(
    way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "environ", {**os.environ, way: "1"})
    result = CliRunner().invoke(app, ["serve", "--port", str(free_port())])
    assert (result.exit_code, way in result.output) == (2, True)


def test_an_overlay_that_opens_the_door_needs_keys_and_is_told_with_the_rest(tmp_path: Path) -> None:
    overlay = tmp_path / "open.yaml"
    overlay.write_text("http_options: {host: 0.0.0.0}\n")
    manifest = tmp_path / "rayservice.yaml"
    manifest.write_text("spec:\n  serveConfigV2: x\n")
    for command in (["check"], ["serve"], ["deploy"], ["deploy", "--print"], ["deploy", "--manifest", str(manifest)]):
        result = CliRunner().invoke(app, [*command, "--overlay", str(overlay)])
        assert result.exit_code == 2
        assert "host '0.0.0.0' is not loopback, and auth.keys is empty" in result.output


def test_a_rayservice_is_printed_with_the_configuration_in_it(tmp_path: Path) -> None:
    manifest = tmp_path / "rayservice.yaml"
    manifest.write_text("kind: RayService\nspec:\n  serveConfigV2: |\n    old: 1\n  rest: 2\n")
    result = CliRunner().invoke(app, ["deploy", "--manifest", str(manifest)])
    assert result.exit_code == 0
    spec = yaml.safe_load(result.output)["spec"]
    assert spec["rest"] == 2
    assert "triptych" in [each["name"] for each in yaml.safe_load(spec["serveConfigV2"])["applications"]]

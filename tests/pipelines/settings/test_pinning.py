"""What sources hold is found out once, where the configuration is deployed from."""

import logging
from pathlib import Path
from typing import Any

import pytest

from pipelines.settings import pinning
from pipelines.settings.config_file import parse
from pipelines.settings.pinning import pinned
from pipelines.settings.schema.config import AppConfig
from pipelines.settings.serve.applications import SurfaceSettings, applications, stages_name
from pipelines.settings.serve.rollout import changes
from pipelines.settings.serve.specs import stage_specs
from stages.contract.errors import ConfigurationError
from tests.stages.checkpoints.test_fingerprint import folder_of


def chat(source: dict[str, Any]) -> AppConfig:
    return parse({"models": {"m": {"pipeline": "image_text", "llm": {"source": source}}}})


def test_a_folder_is_pinned_to_what_it_holds_and_every_process_is_told(tmp_path: Path) -> None:
    config = pinned(chat({"folder": str(folder_of(tmp_path / "a"))}))
    deployed = stage_specs(config)["m.llm"].deployed
    assert deployed is not None
    assert deployed == stage_specs(config)["m.llm"].contents()
    *_, stages, surface = applications(config, "t")
    (llm,) = (parse_part for parse_part in stages.args["stages"].values())
    assert llm["contents"] == {"settings": deployed.settings, "whole": deployed.whole}
    seen = SurfaceSettings.model_validate(surface.deployments["ingress"]["user_config"]).config
    assert stage_specs(seen)["m.llm"].deployed == deployed


def test_a_folder_that_holds_something_else_is_another_model_to_serve(tmp_path: Path) -> None:
    config = chat({"folder": str(folder_of(tmp_path / "a"))})
    before = pinned(config)
    again = pinned(config)
    folder_of(tmp_path / "a", model=b"finetun" * 1000)
    after = pinned(config)

    def documents(of: AppConfig) -> list[dict[str, Any]]:
        return [app.document({}) for app in applications(of, "t")]

    assert not changes(documents(before), documents(again))
    assert changes(documents(before), documents(after))
    assert stages_name("t", "m-llm", before) != stages_name("t", "m-llm", after)


def test_a_replica_that_starts_a_week_later_on_other_files_refuses_them(tmp_path: Path) -> None:
    config = pinned(chat({"folder": str(folder_of(tmp_path / "a"))}))
    folder_of(tmp_path / "a", model=b"finetun" * 1000)
    with pytest.raises(ConfigurationError, match="deploy again"):
        stage_specs(config)["m.llm"].contents()


def test_what_this_machine_does_not_have_stays_open_and_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        config = pinned(chat({"folder": f"{tmp_path}/elsewhere"}))
    assert stage_specs(config)["m.llm"].deployed is None
    assert "looks for itself" in caplog.text


def test_what_is_pinned_already_is_not_looked_at_again(tmp_path: Path) -> None:
    config = pinned(chat({"folder": str(folder_of(tmp_path / "a"))}))
    folder_of(tmp_path / "a", model=b"finetun" * 1000)
    assert pinned(config) == config


def test_a_branch_is_asked_for_once_and_its_commit_says_what_it_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str | None]] = []

    def commit(repository: str, revision: str | None) -> str:
        asked.append((repository, revision))
        return f"{len(asked)}" * 40

    monkeypatch.setattr(pinning, "commit_of", commit)
    part = {"source": {"hub": "org/painter"}}
    config = parse(
        {"models": {"m": {"pipeline": "text_to_image", **dict.fromkeys(("text_encoder", "denoiser", "vae_decoder"), part)}}}
    )
    found = stage_specs(pinned(config)).values()
    assert {spec.source.revision for spec in found} == {"1" * 40}
    assert {spec.deployed for spec in found} == {None}
    assert asked == [("org/painter", None)]

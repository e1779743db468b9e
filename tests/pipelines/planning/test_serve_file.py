"""The plan as a configuration that `triptych check` takes."""

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from pipelines.commands.console import DEFAULT_CONFIG
from pipelines.planning.fleet import GIB, Demand, Device, RequestClass, Rules
from pipelines.planning.plan import Plan
from pipelines.planning.planner import plan
from pipelines.planning.serve_file import planned_file
from pipelines.planning.solving.search import Patience
from pipelines.settings.cautions import cautions
from pipelines.settings.config_file import load, serve_document
from pipelines.settings.derived import batch_items, derivations
from stages.contract.errors import ConfigurationError
from stages.contract.work import Work
from tests.pipelines.planning.fleets import fleet, measured

DEVICES = (
    Device("A100", 2, 40 * GIB, per_node=2, cpus_per_node=32, found_by={"accelerator_type": "A100"}),
    Device("slow", 2, 16 * GIB, cpus_per_node=4, is_gpu=False, found_by={"label_selector": {"speed": "slow"}}),
)
ROWS = {"llm": 16, "vision_encoder": 16, "text_encoder": 32, "denoiser": 4, "vae_decoder": 8, "vae_encoder": 8, "embedder": 32}


def planned(utilisation: float = 0.8) -> Plan:
    """Everything in the shipped file; the LLM in larger batches and the denoiser in smaller ones than it says."""
    stages = load(DEFAULT_CONFIG).app.stage_names()
    on_any = {
        stage: measured(0.02, 1e-4, ROWS[stage.partition(".")[2]], one_shot=stage.partition(".")[2] not in ("llm", "denoiser"))
        for stage in stages
    }
    known = {
        (stage, device.name): replace(
            each, dtype="float16" if device.is_gpu else "float32", speed=each.speed.corrected(1.0 if device.is_gpu else 4.0)
        )
        for stage, each in on_any.items()
        for device in DEVICES
    }
    chat = RequestClass(
        "chat",
        3,
        (Demand("triptych-see.vision_encoder", Work(49)), Demand("triptych-see.llm", Work(300, 103), 1, Work(200, 2))),
    )
    paint = RequestClass("paint", 1, tuple(Demand(f"triptych-paint.{part}", work) for part, work in PAINTING.items()))
    return plan(
        replace(fleet(DEVICES, (chat, paint), ()), stages=stages, measured=known), Rules(utilisation), patience=Patience(3)
    )


PAINTING = {"text_encoder": Work(77), "denoiser": Work(20 * 128, 20), "vae_decoder": Work(4096)}


def written(found: Plan, text: str | None = None) -> str:
    return planned_file(text or DEFAULT_CONFIG.read_text(), "base.yaml", found, DEVICES, load(DEFAULT_CONFIG).app)


def test_what_is_written_is_what_was_planned_and_can_be_deployed(tmp_path: Path) -> None:
    found, path = planned(), tmp_path / "planned.yaml"
    path.write_text(written(found))
    file = load(path)
    assert set(file.app.deployments) == {pool.name for pool in found.pools}
    for pool in found.pools:
        deployment = file.app.deployments[pool.name]
        assert deployment.num_replicas == pool.replicas
        assert deployment.stages == tuple(each.stage for each in pool.stages)
        options = deployment.ray_actor_options
        assert options.num_gpus == (pool.fraction if pool.device == "A100" else None)
        assert options.accelerator_type == ("A100" if pool.device == "A100" else None)
        assert options.label_selector == ({} if pool.device == "A100" else {"speed": "slow"})
        hosted = file.app.hosted(deployment)
        for each in pool.stages:
            assert batch_items(hosted[each.stage]) == each.rows
            assert hosted[each.stage].dtype == each.dtype
    assert derivations(file.app)
    cautions(file.app)
    assert serve_document(file)["applications"]


def test_nothing_else_of_the_file_changes_comments_included() -> None:
    before, after = DEFAULT_CONFIG.read_text().split("\n"), written(planned()).split("\n")
    first = next(at for at, line in enumerate(before) if line.strip().startswith("deployments:"))
    assert after[:first] == before[:first]
    last = next(at for at, line in enumerate(before) if line.strip() == "cache:" and at > first) - 1
    assert after[-len(before[last:]) :] == before[last:]


def test_the_same_plan_is_written_the_same_and_over_itself_changes_nothing() -> None:
    found = planned()
    assert written(found) == written(found)
    assert written(found, written(found)) == written(found)


def test_a_replica_takes_its_part_of_a_nodes_cpus_so_that_all_of_them_fit() -> None:
    found = planned()
    args = yaml.safe_load(written(found))["applications"][0]["args"]
    for device in DEVICES:
        pools = [pool for pool in found.pools if pool.device == device.name]
        taken = sum(pool.replicas * args["deployments"][pool.name]["ray_actor_options"]["num_cpus"] for pool in pools)
        assert taken <= device.num_nodes * device.cpus_per_node


def test_where_every_device_is_taken_old_replicas_go_first() -> None:
    found = planned()
    args = yaml.safe_load(written(found))["applications"][0]["args"]
    full = {use.device for use in found.devices if use.used == use.count}
    assert full
    for pool in found.pools:
        assert (args["deployments"][pool.name].get("max_surge_percent") == 0) == (pool.device in full)


def test_a_file_without_deployments_gets_them() -> None:
    document = yaml.safe_load(DEFAULT_CONFIG.read_text())
    del document["applications"][0]["args"]["deployments"]
    found = planned()
    args = yaml.safe_load(written(found, yaml.safe_dump(document)))["applications"][0]["args"]
    assert set(args["deployments"]) == {pool.name for pool in found.pools}
    assert set(args) > set(document["applications"][0]["args"])


def test_a_file_without_triptychs_application_is_refused() -> None:
    with pytest.raises(
        ConfigurationError, match=r"base\.yaml: the application with import_path pipelines\.app:build has no args"
    ):
        written(planned(), "applications: [{import_path: 'other:app', args: {}}]")

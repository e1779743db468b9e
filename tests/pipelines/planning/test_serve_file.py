"""The plan as a configuration that `triptych check` takes."""

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from pipelines.commands.console import DEFAULT_CONFIG
from pipelines.planning.bounds import Bounds, allowed, bounds
from pipelines.planning.bounds import budget as planned_budget
from pipelines.planning.fleet import GIB, Demand, Device, RequestClass, Rules
from pipelines.planning.plan import DeviceUse, Plan, PlannedPool, PlannedStage
from pipelines.planning.planner import plan
from pipelines.planning.serve_file import planned_file
from pipelines.planning.solving.search import Patience
from pipelines.settings.cautions import cautions
from pipelines.settings.config_file import load, parse, serve_document
from pipelines.settings.derived import batch_items, derivations
from pipelines.settings.schema.deployments import DeploymentConfig
from pipelines.settings.schema.orchestration import BudgetConfig
from pipelines.settings.serve.scaled import budget_faults, scaler_settings
from stages.contract.errors import ConfigurationError
from stages.contract.work import Work
from tests.pipelines.planning.fleets import fleet, measured

DEVICES = (
    Device("A100", 2, 40 * GIB, per_node=2, cpus_per_node=32, found_by={"accelerator_type": "A100"}),
    Device("slow", 2, 16 * GIB, cpus_per_node=4, is_gpu=False, found_by={"label_selector": {"speed": "slow"}}),
)
ROWS = {"llm": 16, "vision_encoder": 16, "text_encoder": 32, "denoiser": 4, "vae_decoder": 8, "vae_encoder": 8, "embedder": 32}


def planned(utilisation: float = 0.8, replicas: int = 1) -> Plan:
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
        replace(fleet(DEVICES, (chat, paint), ()), stages=stages, measured=known),
        Rules(utilisation, replicas),
        patience=Patience(3),
    )


PAINTING = {"text_encoder": Work(77), "denoiser": Work(20 * 128, 20), "vae_decoder": Work(4096)}


def written(found: Plan, text: str | None = None) -> str:
    return planned_file(text or DEFAULT_CONFIG.read_text(), "base.yaml", found, DEVICES, load(DEFAULT_CONFIG).app)


def replicas(deployment: DeploymentConfig) -> int | None:
    """That it begins with."""
    scaling = deployment.autoscaling_config
    return deployment.num_replicas if scaling is None else scaling.initial_replicas


def test_what_is_written_is_what_was_planned_and_can_be_deployed(tmp_path: Path) -> None:
    found, path = planned(), tmp_path / "planned.yaml"
    path.write_text(written(found))
    file = load(path)
    assert set(file.app.deployments) == {pool.name for pool in found.pools}
    for pool in found.pools:
        deployment = file.app.deployments[pool.name]
        assert replicas(deployment) == pool.replicas
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


@pytest.mark.parametrize("at_least", [1, 2])
def test_the_scaler_may_use_all_devices_that_were_planned_for_and_leaves_every_stage_its_replicas(at_least: int) -> None:
    found, app = planned(replicas=at_least), load(DEFAULT_CONFIG).app
    args = yaml.safe_load(planned_file(DEFAULT_CONFIG.read_text(), "base.yaml", found, DEVICES, app, at_least))
    config = parse(args["applications"][0]["args"])
    assert config.scaling.budget.devices == {"A100": 2, "cpu": 7.2}
    kept = dict.fromkeys(config.stage_names(), 0)
    for pool in scaler_settings(config, dict.fromkeys(config.deployments, "app")).pools:
        planned_pool = next(each for each in found.pools if each.name == pool.deployment)
        device = next(each for each in DEVICES if each.name == planned_pool.device)
        assert pool.max_replicas * planned_pool.fraction == device.count
        assert pool.min_replicas <= pool.initial_replicas == planned_pool.replicas <= pool.max_replicas
        for stage in pool.stages:
            kept[stage] += pool.min_replicas
    visited = {share.stage for share in found.shares}
    assert all(count >= (at_least if stage in visited else 1) for stage, count in kept.items())
    assert not budget_faults(config)


def test_what_was_allowed_already_is_allowed_still() -> None:
    """Fewer devices than there are, and types that no pool is on."""
    found, app = planned(), load(DEFAULT_CONFIG).app
    budget = BudgetConfig(devices={"A100": 1.0, "T4": 3.0}, price_per_hour=9.0)
    (fewer, slow) = allowed(DEVICES, budget)
    assert (fewer.count, slow.count) == (1, 2)
    given = app.model_copy(update={"scaling": app.scaling.model_copy(update={"budget": budget})})
    assert planned_budget(found, DEVICES, given.scaling.budget) == {"A100": 1.0, "T4": 3.0, "cpu": 7.2}
    for pool in bounds(found, DEVICES, planned_budget(found, DEVICES, budget), 1).values():
        assert pool.least <= pool.most


def test_types_that_the_budget_cannot_tell_apart_are_kept_apart_by_the_pools_own_bounds() -> None:
    """Two kinds of nodes without GPUs: both are "cpu" to the budget."""
    kinds = tuple(replace(DEVICES[1], name=name, found_by={"label_selector": {"speed": name}}) for name in ("near", "far"))
    pools = tuple(
        PlannedPool(
            f"{stage}-{kind.name}",
            kind.name,
            0.5,
            count,
            (PlannedStage(stage, measured(1, 1, 1).speed, "auto", 0.5),),
            0.5,
            0,
            False,
        )
        for stage, kind, count in (("a.llm", kinds[0], 1), ("b.llm", kinds[0], 2), ("b.llm", kinds[1], 3))
    )
    uses = tuple(DeviceUse(kind.name, kind.count, kind.count, 0.5, None) for kind in kinds)
    found = replace(planned(), pools=pools, devices=uses)
    may = bounds(found, kinds, planned_budget(found, kinds, BudgetConfig()), 1)
    assert may["a.llm-near"] == Bounds(1, 2)  # half a device is free
    assert may["b.llm-near"].most == 3
    assert may["b.llm-far"] == Bounds(1, 4)


@pytest.mark.parametrize(
    ("scaling", "is_kept"),
    [
        ("scaling: {drain_s: 7, budget: {devices: {A100: 1}}}", "drain_s: 7"),
        ("scaling: {drain_s: 7}", "drain_s: 7"),
        ("scaling:\n  drain_s: 7  # soon\n  budget:\n    # dear\n    price_per_hour: 9", "# dear"),
        ("scaling:\n  budget:\n    devices:\n      A100: 1\n      T4: 2\n  # soon\n  drain_s: 7", "# soon"),
        ("scaling:", ""),
    ],
)
def test_the_budget_is_put_where_scaling_is_spoken_of_and_nothing_else_is_changed(scaling: str, is_kept: str) -> None:
    text = DEFAULT_CONFIG.read_text()
    line = next(line for line in text.split("\n") if line.strip().startswith("deployments:"))
    indent = line[: len(line) - len(line.lstrip())]
    block = "".join(f"{indent}{each}\n" for each in scaling.split("\n"))
    once = written(planned(), text.replace(line, block + line, 1))
    args = yaml.safe_load(once)["applications"][0]["args"]
    before = yaml.safe_load(scaling)["scaling"] or {}
    assert is_kept in once
    assert args["scaling"]["budget"]["devices"]["A100"] in (1, 2)
    assert {name: value for name, value in args["scaling"].items() if name != "budget"} == {
        name: value for name, value in before.items() if name != "budget"
    }
    assert written(planned(), once) == once


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

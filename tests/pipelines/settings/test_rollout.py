"""What a changed configuration does to what runs, and in which order."""

from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines.settings.applications import applications
from pipelines.settings.config_file import parse
from pipelines.settings.rollout import Document, changes, steps

SHIPPED = Path(__file__).parents[3] / "serve_config.yaml"
APP = "triptych"


def shipped(**changed: Any) -> dict[str, Any]:
    """The shipped configuration; `models__a__b=1` sets models.a.b, with _ for what a name can't hold."""
    args: dict[str, Any] = deepcopy(yaml.safe_load(SHIPPED.read_text())["applications"][0]["args"])
    for path, value in changed.items():
        *parents, last = path.split("__")
        place = args
        for key in parents:
            place = place.setdefault(key.replace("_", "-") if key.replace("_", "-") in place else key, {})
        place[last] = value
    return args


def documents(args: dict[str, Any]) -> Sequence[Document]:
    return [app.document({}) for app in applications(parse(args), APP)]


def effects(before: dict[str, Any], after: dict[str, Any]) -> dict[str, str]:
    return {change.deployment: change.effect.name for change in changes(documents(before), documents(after))}


ALL_STAGES = ("vision-encoder", "llm", "text-encoder", "denoiser", "vae", "clip")
CHANGES: list[tuple[str, dict[str, Any], dict[str, str]]] = [
    ("nothing", {}, {}),
    ("a limit", {"limits__image_bytes": 1024}, {"ingress": "RECONFIGURED"}),
    ("a key", {"auth": {"keys": [{"tenant": "a", "sha256": "0" * 64}]}}, {"ingress": "RECONFIGURED"}),
    ("fetching", {"fetch": {"enabled": True}}, {"ingress": "RECONFIGURED"}),
    (
        "a queue's bound",
        {"models__triptych_paint__vae_decoder__queue": {"max_items": 99}},
        {"vae": "RECONFIGURED"},
    ),
    (
        "a scaling bound",
        {"deployments__llm__autoscaling_config__max_replicas": 5},
        {"llm": "RECONFIGURED"},
    ),
    (
        "how much a replica takes in",
        {"deployments__clip__max_ongoing_requests": 50},
        {"clip": "RECONFIGURED"},
    ),
    ("the surface's replicas", {"ingress": {"num_replicas": 3}}, {"ingress": "RECONFIGURED"}),
    ("slots", {"models__triptych_see__llm__num_slots": 4}, {"llm": "RESTARTS", "ingress": "RECONFIGURED"}),
    ("a dtype", {"models__triptych_paint__vae_decoder__dtype": "bfloat16"}, {"vae": "RESTARTS", "ingress": "RECONFIGURED"}),
    (
        "another source",
        {"models__triptych_clip__embedder__source": {"folder": "/models/clip"}},
        {"clip": "RESTARTS", "ingress": "RECONFIGURED"},
    ),
    (
        "resources",
        {"deployments__denoiser__ray_actor_options": {"num_cpus": 1}},
        {"denoiser": "RESTARTS"},
    ),
    (
        "a new model",
        {"models__more": {"pipeline": "embed", "embedder": {"source": {"demo": "clip"}}}},
        {"more-embedder": "STARTS", "ingress": "RECONFIGURED"},
    ),
    (
        "another Redis",
        {"cache": {"redis": {"url": "redis://cache:6379/0"}}},
        {"triptych-redis": "ENDS", "ingress": "RECONFIGURED", **dict.fromkeys(ALL_STAGES, "RESTARTS")},
    ),
]


@pytest.mark.parametrize(("changed", "expected"), [case[1:] for case in CHANGES], ids=[case[0] for case in CHANGES])
def test_a_change_restarts_what_it_changes(changed: dict[str, Any], expected: dict[str, str]) -> None:
    assert effects(shipped(), shipped(**changed)) == expected


def test_a_removed_model_ends_its_deployments_only() -> None:
    after = shipped()
    del after["models"]["triptych-clip"], after["deployments"]["clip"]
    assert effects(shipped(), after) == {"clip": "ENDS", "ingress": "RECONFIGURED"}


def test_from_a_fixed_number_of_replicas_to_a_scaled_one_is_a_restart() -> None:
    """Serve counts whether there is a policy as part of the code."""
    before = shipped(deployments__llm={"stages": ["triptych-see.llm"], "num_replicas": 1})
    assert effects(before, shipped())["llm"] == "RESTARTS"


def test_settings_are_named_as_paths() -> None:
    found = {
        change.deployment: change for change in changes(documents(shipped()), documents(shipped(limits__image_bytes=1024)))
    }
    assert found["ingress"].settings == ("user_config.config.limits.image_bytes",)
    found = {
        change.deployment: change
        for change in changes(documents(shipped()), documents(shipped(models__triptych_see__llm__num_slots=4)))
    }
    assert "args.stages.triptych-see.llm.num_slots" in found["llm"].settings


def names(applications: Sequence[Document]) -> set[str]:
    return {document["name"] for document in applications}


def of(applications: Sequence[Document], name: str) -> Document:
    return next(document for document in applications if document["name"] == name)


def test_the_first_time_everything_starts_at_once() -> None:
    wanted = documents(shipped())
    (step,) = steps([], wanted, APP)
    assert (names(step.applications), step.settles) == (names(wanted), False)


def test_what_runs_already_takes_no_step() -> None:
    assert steps(documents(shipped()), documents(shipped()), APP) == []


def test_a_new_models_stages_come_before_the_surface_is_told_of_it() -> None:
    now = documents(shipped())
    wanted = documents(shipped(models__more={"pipeline": "embed", "embedder": {"source": {"demo": "clip"}}}))
    first, second = steps(now, wanted, APP)
    assert names(first.applications) == names(wanted)
    assert of(first.applications, APP) == of(now, APP)
    assert of(second.applications, APP) == of(wanted, APP)


def test_a_removed_models_stages_go_after_the_surface_has_done_with_it() -> None:
    after = shipped()
    del after["models"]["triptych-clip"], after["deployments"]["clip"]
    now, wanted = documents(shipped()), documents(after)
    first, second = steps(now, wanted, APP)
    assert of(first.applications, APP) == of(wanted, APP)
    assert first.settles
    assert names(first.applications) == names(now)
    assert names(second.applications) == names(wanted)


def test_a_stage_that_moves_is_in_both_places_until_the_surface_has_changed() -> None:
    after = shipped()
    after["deployments"]["vae"]["stages"] = ["triptych-paint.vae_decoder"]
    after["deployments"]["edits"] = {"stages": ["triptych-paint.vae_encoder"]}
    now, wanted = documents(shipped()), documents(after)
    first, second, third = steps(now, wanted, APP)
    assert of(first.applications, "triptych-vae") == of(second.applications, "triptych-vae") == of(now, "triptych-vae")
    assert "triptych-edits" in names(first.applications)
    assert list(third.applications) == list(wanted)


def test_a_changed_limit_is_one_step() -> None:
    (step,) = steps(documents(shipped()), documents(shipped(limits__image_bytes=1024)), APP)
    assert step.settles

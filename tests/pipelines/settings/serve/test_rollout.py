"""What a changed configuration does to what runs, and in which order."""

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import pytest
import yaml

from pipelines.settings.config_file import parse
from pipelines.settings.serve.applications import applications
from pipelines.settings.serve.rollout import Document, changed, changes, steps
from tests.pipelines.settings.shipped import SHIPPED

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
    """But for the scaler, which is told of whatever it is to scale, and never restarts."""
    found = {change.deployment: change.effect.name for change in changes(documents(before), documents(after))}
    assert found.pop("scaler", "RECONFIGURED") == "RECONFIGURED"
    return found


ALL_STAGES = ("vision-encoder", "llm", "text-encoder", "denoiser", "vae", "clip")
CHANGES: list[tuple[str, dict[str, Any], dict[str, str]]] = [
    ("nothing", {}, {}),
    ("a limit", {"limits__image_bytes": 1024}, {"ingress": "RECONFIGURED"}),
    ("a key", {"auth": {"keys": [{"tenant": "a", "sha256": "0" * 64}]}}, {"ingress": "RECONFIGURED"}),
    (
        "where traces go",
        {"telemetry": {"traces": {"endpoint": "http://collector:4318/v1/traces"}}},
        dict.fromkeys((*ALL_STAGES, "ingress"), "RECONFIGURED"),
    ),
    ("fetching", {"fetch": {"enabled": True}}, {"ingress": "RECONFIGURED"}),
    (
        "a queue's bound",
        {"models__triptych_paint__vae_decoder__queue": {"max_items": 99}},
        {"vae": "RECONFIGURED"},
    ),
    ("a scaling bound", {"deployments__llm__autoscaling_config__max_replicas": 5}, {}),
    (
        "how much a replica takes in",
        {"deployments__clip__max_ongoing_requests": 50},
        {"clip": "RECONFIGURED"},
    ),
    (
        "what is kept of paintings, which is sent with each request",
        {"models__triptych_paint__keep_steps": [5, 0.5], "models__triptych_paint__remember_images": True},
        {"ingress": "RECONFIGURED"},
    ),
    ("the surface's replicas", {"ingress": {"num_replicas": 3}}, {"ingress": "RECONFIGURED"}),
    ("slots", {"models__triptych_see__llm__num_slots": 4}, {"llm": "RESTARTS"}),
    ("the prompt's chunk", {"models__triptych_see__llm__prefill_chunk_tokens": 64}, {"llm": "RESTARTS"}),
    ("compiling", {"models__triptych_paint__denoiser__compile": True}, {"denoiser": "RESTARTS"}),
    ("the longest step", {"models__triptych_paint__denoiser__max_step_s": 7}, {"denoiser": "RESTARTS"}),
    ("where results are remembered", {"cache__memory_bytes": 4096}, dict.fromkeys(ALL_STAGES, "RESTARTS")),
    (
        "slots where there is no room for two",
        {"models__triptych_see__llm__num_slots": 4, "deployments__llm__max_surge_percent": 0},
        {"llm": "RESTARTS_OLD_FIRST"},
    ),
    (
        "the context, which requests are checked against",
        {"models__triptych_see__llm__max_context_tokens": 1024},
        {"llm": "REPLACED", "ingress": "RECONFIGURED"},
    ),
    ("a dtype", {"models__triptych_paint__vae_decoder__dtype": "bfloat16"}, {"vae": "RESTARTS", "ingress": "RECONFIGURED"}),
    (
        "another source",
        {"models__triptych_clip__embedder__source": {"folder": "/models/clip"}},
        {"clip": "REPLACED", "ingress": "RECONFIGURED"},
    ),
    (
        "another source where there is no room for two",
        {
            "models__triptych_clip__embedder__source": {"folder": "/models/clip"},
            "deployments__clip__max_surge_percent": 0,
        },
        {"clip": "REPLACED_OLD_FIRST", "ingress": "RECONFIGURED"},
    ),
    (
        "another source of what others need",
        {"models__triptych_paint__text_encoder__source": {"folder": "/models/painter"}},
        {"text-encoder": "REPLACED", "denoiser": "REPLACED", "ingress": "RECONFIGURED"},
    ),
    (
        "another projector",
        {"models__triptych_see__vision_encoder__projector": {"folder": "/models/projector"}},
        {"vision-encoder": "REPLACED", "llm": "REPLACED", "ingress": "RECONFIGURED"},
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
        {
            "triptych-redis": "ENDS",
            "triptych-redis-kv": "ENDS",
            **dict.fromkeys(ALL_STAGES, "RESTARTS"),
            "ingress": "RECONFIGURED",
        },
    ),
    (
        "no pages",
        {"cache__kv": None},
        {"triptych-redis-kv": "ENDS", "llm": "RESTARTS", "denoiser": "RESTARTS"},
    ),
]


@pytest.mark.parametrize(("changed", "expected"), [case[1:] for case in CHANGES], ids=[case[0] for case in CHANGES])
def test_a_change_restarts_what_it_changes(changed: dict[str, Any], expected: dict[str, str]) -> None:
    assert effects(shipped(), shipped(**changed)) == expected


def test_a_removed_model_ends_its_deployments_only() -> None:
    after = shipped()
    del after["models"]["triptych-clip"], after["deployments"]["clip"]
    assert effects(shipped(), after) == {"clip": "ENDS", "ingress": "RECONFIGURED"}


def test_the_scaler_alone_is_told_of_other_bounds() -> None:
    wanted = documents(shipped(deployments__llm__autoscaling_config__max_replicas=5))
    (change,) = changes(documents(shipped()), wanted)
    assert (change.deployment, change.effect.name) == ("scaler", "RECONFIGURED")
    (step,) = steps(documents(shipped()), wanted, APP)
    assert not step.ends


def test_from_a_fixed_number_of_replicas_to_a_scaled_one_restarts_nothing() -> None:
    before = shipped(deployments__llm__autoscaling_config=None, deployments__llm__num_replicas=1)
    assert effects(before, shipped()) == {"llm": "RECONFIGURED"}
    assert effects(shipped(), before) == {"llm": "RECONFIGURED"}


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
    assert (names(step.applications), step.tells, step.ends) == (names(wanted), False, False)


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
    assert (first.tells, first.ends, second.tells, second.ends) == (True, False, False, True)
    assert names(first.applications) == names(now)
    assert names(second.applications) == names(wanted)


def application(applications: Sequence[Document], deployment: str) -> str:
    """The name of the one that a deployment is in."""
    (found,) = {
        document["name"]
        for document in applications
        if deployment in [given["name"] for given in document.get("deployments", ())]
    }
    return str(found)


def two_models(**places: str) -> Sequence[Document]:
    """Two models, each in the deployment that is given for it."""
    embedder = {"pipeline": "embed", "embedder": {"source": {"demo": "clip"}}}
    return documents(
        {
            "models": dict.fromkeys(places, embedder),
            "deployments": {place: {"stages": [f"{model}.embedder"]} for model, place in places.items()},
        }
    )


def test_a_stage_that_moves_is_in_both_places_until_the_surface_has_changed() -> None:
    after = shipped()
    after["deployments"]["vae"]["stages"] = ["triptych-paint.vae_decoder"]
    after["deployments"]["edits"] = {"stages": ["triptych-paint.vae_encoder"]}
    now, wanted = documents(shipped()), documents(after)
    first, second, third, fourth = steps(now, wanted, APP)
    old, painters = application(now, "vae"), application(now, "denoiser")
    assert [names(now) | names(wanted)] * 3 == [names(step.applications) for step in (first, second, third)]
    assert [of(step.applications, old) for step in (first, second, third)] == [of(now, old)] * 3
    assert of(first.applications, painters) == of(
        now, painters
    )  # who needs a stage is told of its new place when that is there
    assert of(second.applications, painters) == of(wanted, painters)
    assert of(second.applications, APP) == of(now, APP)
    assert of(third.applications, APP) == of(wanted, APP)
    assert fourth.ends
    assert list(fourth.applications) == list(wanted)


@pytest.mark.parametrize("wanted", [two_models(a="two", b="one"), two_models(c="one", b="two")], ids=["swapped", "renamed"])
def test_a_deployment_that_gains_one_stage_and_loses_another_serves_both_meanwhile(wanted: Sequence[Document]) -> None:
    now = two_models(a="one", b="two")
    first, second, third = steps(now, wanted, APP)
    assert names(first.applications) == names(second.applications) == names(now) | names(wanted)
    assert (first.tells, second.tells, third.ends) == (False, True, True)


def test_another_model_starts_beside_the_old_one_and_the_surface_goes_from_the_one_to_the_other() -> None:
    now = documents(shipped())
    wanted = documents(shipped(models__triptych_see__vision_encoder__projector={"folder": "/models/projector"}))
    first, second, third = steps(now, wanted, APP)
    for deployment in ("vision-encoder", "llm"):  # the LLM's requests tell of the encoder's weights, too
        assert application(now, deployment) != application(wanted, deployment)
        for step in (first, second):
            assert {application(now, deployment), application(wanted, deployment)} <= names(step.applications)
    assert of(first.applications, APP) == of(now, APP)
    assert of(second.applications, APP) == of(wanted, APP)
    assert names(third.applications) == names(wanted)


def test_where_two_have_no_room_the_old_one_ends_before_the_new_one_starts() -> None:
    no_room = {"deployments__clip__max_surge_percent": 0}
    now = documents(shipped(**no_room))
    wanted = documents(shipped(models__triptych_clip__embedder__source={"folder": "/models/clip"}, **no_room))
    old, new = application(now, "clip"), application(wanted, "clip")
    told, ended, started = steps(now, wanted, APP)
    assert [(step.tells, step.ends) for step in (told, ended, started)] == [(True, False), (False, True), (False, False)]
    assert [{old, new} & names(step.applications) for step in (told, ended, started)] == [{old}, set(), {new}]


def test_a_roll_out_that_was_interrupted_settles_again_before_it_ends_anything() -> None:
    now = documents(shipped())
    wanted = documents(shipped(models__triptych_clip__embedder__source={"folder": "/models/clip"}))
    _, told, _ = steps(now, wanted, APP)
    (rest,) = steps(told.applications, wanted, APP)
    assert rest.ends
    assert names(rest.applications) == names(wanted)


def test_a_changed_limit_is_one_step_that_ends_nothing() -> None:
    (step,) = steps(documents(shipped()), documents(shipped(limits__image_bytes=1024)), APP)
    assert (step.tells, step.ends) == (True, False)


def test_what_a_step_changes_is_told_from_what_it_leaves_alone() -> None:
    now, wanted = documents(shipped()), documents(shipped(models__triptych_see__llm__num_slots=4))
    assert changed(now, wanted) == {application(wanted, "llm")}
    assert changed([], wanted) == names(wanted)


def test_the_same_stages_in_another_order_are_the_same_model() -> None:
    after = shipped()
    after["deployments"]["vae"]["stages"].reverse()
    assert application(documents(shipped()), "vae") == application(documents(after), "vae")

"""A roll-out, step by step, over a Serve that does what the test says: what is waited for, what is taken back, what is mended."""

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.serve.schema import ApplicationStatus, ApplicationStatusOverview

from pipelines.cluster.deploy import Rollout
from pipelines.cluster.state.metrics_table import Refused, SettingsInUse
from pipelines.settings.config_file import IMPORT_PATH, HttpConfig, ServeFile, parse
from pipelines.settings.serve.applications import stages_name, version_of
from pipelines.settings.serve.rollout import Document
from stages.contract.errors import ConfigurationError

SHIPPED = Path(__file__).parents[3] / "serve_config.yaml"
ARGS = yaml.safe_load(SHIPPED.read_text())["applications"][0]["args"]
APP = "triptych"
RUNNING, DEPLOYING, FAILED = ApplicationStatus.RUNNING, ApplicationStatus.DEPLOYING, ApplicationStatus.DEPLOY_FAILED


@dataclass
class FakeServe:
    """Applications run, and the surface's settings are taken, at the first pause after they were configured. Those of `failing` fail
    instead. `answering`: requests by the surface's earlier settings end when this returns false."""

    given: list[Document] = field(default_factory=list)
    states: dict[str, ApplicationStatus] = field(default_factory=dict)
    failing: set[str] = field(default_factory=set)
    refuses: bool = False
    answering: Callable[[], bool] = lambda: False
    configured: list[set[str]] = field(default_factory=list)
    clock: float = 0.0

    def applications(self) -> Sequence[Document]:
        return self.given

    def status(self) -> Mapping[str, ApplicationStatusOverview]:
        return {
            name: ApplicationStatusOverview(status=state, message="", last_deployed_time_s=0, deployments={})
            for name, state in self.states.items()
        }

    def configure(self, config: Mapping[str, Any]) -> None:
        old = {document["name"]: document for document in self.given}
        self.given = [deepcopy(dict(document)) for document in config["applications"]]
        self.configured.append(self.names())
        for document in self.given:
            if old.get(document["name"]) != document:
                self.states[document["name"]] = DEPLOYING
        self.states = {name: state for name, state in self.states.items() if name in self.names()}

    def settings_in_use(self, surface: str) -> Mapping[str, SettingsInUse]:
        (document,) = [document for document in self.given if document["name"] == surface]
        version = version_of(document["deployments"][0]["user_config"])
        if self.refuses:
            return {"a": SettingsInUse(("old",), Refused(version, "no such key"))}
        return {"a": SettingsInUse(("old", version) if self.answering() else (version,))}

    def now(self) -> float:
        return self.clock

    def pause(self) -> None:
        self.clock += 1
        for name, state in self.states.items():
            if state == DEPLOYING:
                self.states[name] = FAILED if name in self.failing else RUNNING

    def names(self) -> set[str]:
        return {document["name"] for document in self.given}


def file(**changed: Any) -> ServeFile:
    """The shipped configuration, with other settings at the top level."""
    return ServeFile(http=HttpConfig(), app_name=APP, app=parse(deepcopy(ARGS) | changed))


def serving(**changed: Any) -> FakeServe:
    """One that runs the shipped configuration."""
    serve = FakeServe()
    Rollout(file(**changed), serve=serve).apply()
    assert set(serve.states.values()) == {RUNNING}
    serve.configured.clear()
    return serve


def other_clip(max_surge_percent: int = 25) -> dict[str, Any]:
    models, deployments = deepcopy(ARGS["models"]), deepcopy(ARGS["deployments"])
    models["triptych-clip"]["embedder"]["source"] = {"folder": "/models/clip"}
    deployments["clip"]["max_surge_percent"] = max_surge_percent
    return {"models": models, "deployments": deployments}


def clip_of(given: ServeFile) -> str:
    return stages_name(APP, "clip", given.app)


OLD, NEW = clip_of(file()), clip_of(file(**other_clip()))


def test_what_runs_as_configured_is_left_alone() -> None:
    serve = serving()
    Rollout(file(), serve=serve).apply()
    assert serve.configured == []


def test_a_first_roll_out_that_failed_is_repaired_by_the_next() -> None:
    serve = FakeServe(failing={OLD})
    with pytest.raises(ConfigurationError, match=f"{OLD}: DEPLOY_FAILED"):
        Rollout(file(), serve=serve).apply()
    assert Rollout(file(), serve=serve).changes() == []
    with pytest.raises(ConfigurationError, match=f"{OLD}: DEPLOY_FAILED"):
        Rollout(file(), serve=serve).apply()
    serve.failing.clear()
    serve.configured.clear()
    Rollout(file(), serve=serve).apply()
    assert serve.states[OLD] == RUNNING
    assert [OLD in names for names in serve.configured] == [False, True]  # given the same again, Serve would do nothing


def test_another_model_is_there_before_the_old_one_ends() -> None:
    serve = serving()
    Rollout(file(**other_clip()), serve=serve).apply()
    assert [{OLD, NEW} & names for names in serve.configured] == [{OLD, NEW}, {OLD, NEW}, {NEW}]


def test_another_model_that_fails_is_taken_back() -> None:
    serve = serving()
    serve.failing = {NEW}
    with pytest.raises(ConfigurationError, match=NEW):
        Rollout(file(**other_clip()), serve=serve).apply()
    assert {OLD, NEW} & serve.names() == {OLD}


def test_another_model_that_had_no_room_and_fails_is_taken_back() -> None:
    serve = serving(**other_clip(0) | {"models": ARGS["models"]})
    serve.failing = {NEW}
    with pytest.raises(ConfigurationError, match=NEW):
        Rollout(file(**other_clip(0)), serve=serve).apply()
    assert [{OLD, NEW} & names for names in serve.configured] == [{OLD}, set(), {NEW}, {OLD}]


def test_settings_that_the_surface_refuses_are_taken_back() -> None:
    serve = serving()
    before = serve.given
    serve.refuses = True
    with pytest.raises(ConfigurationError, match="goes on with its old settings: no such key"):
        Rollout(file(limits={"image_bytes": 4096}), serve=serve).apply()
    assert serve.given == before


def test_where_nothing_ends_nobody_waits_for_requests_under_way() -> None:
    serve = serving()
    serve.answering = lambda: True
    Rollout(file(limits={"image_bytes": 4096}), serve=serve).apply()
    assert len(serve.configured) == 1


def test_what_requests_need_stays_while_they_last_by_the_longer_of_both_bounds() -> None:
    serve = serving(limits={"max_request_s": 1000})
    told_at = serve.clock
    serve.answering = lambda: serve.clock < told_at + 1000
    Rollout(file(**other_clip(), limits={"max_request_s": 200}), timeout_s=60, serve=serve).apply()
    assert serve.clock >= told_at + 1000
    assert {OLD, NEW} & serve.names() == {NEW}


def test_requests_that_never_end_take_nothing_back_and_the_next_roll_out_waits_for_them_again() -> None:
    serve = serving()
    serve.answering = lambda: True
    with pytest.raises(ConfigurationError, match="requests by the old settings: not done in 660 s"):
        Rollout(file(**other_clip()), timeout_s=60, serve=serve).apply()
    assert {OLD, NEW} <= serve.names()
    told_at = serve.clock
    serve.answering = lambda: serve.clock < told_at + 50
    Rollout(file(**other_clip()), serve=serve).apply()
    assert serve.clock >= told_at + 50
    assert {OLD, NEW} & serve.names() == {NEW}


def test_what_the_change_does_not_touch_is_not_judged() -> None:
    serve = serving()
    serve.states["somebody-elses"] = FAILED
    serve.states[OLD] = ApplicationStatus.UNHEALTHY
    Rollout(file(limits={"image_bytes": 4096}), serve=serve).apply()
    assert len(serve.configured) == 1


def test_a_step_takes_no_longer_than_it_may() -> None:
    serve = FakeServe()
    serve.pause = lambda: setattr(serve, "clock", serve.clock + 1)  # type: ignore[method-assign]
    with pytest.raises(ConfigurationError, match="everything starts: not done in 70 s"):
        Rollout(file(), timeout_s=70, serve=serve).apply()


def test_triptych_as_one_application_is_not_torn_apart() -> None:
    whole = {"name": APP, "import_path": IMPORT_PATH, "route_prefix": "/", "args": {}}
    serve = FakeServe(given=[whole], states={APP: RUNNING})
    for act in (Rollout(file(), serve=serve).apply, Rollout(file(), serve=serve).changes):
        with pytest.raises(ConfigurationError, match="application triptych runs as one"):
            act()
    assert serve.configured == []

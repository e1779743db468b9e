"""Has Ray Serve run what a configuration means, step by step, and waits for each. What the steps are is
`pipelines/settings/rollout.py`. Knows no models; Ray and Serve run already."""

import time
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

from ray import serve
from ray.exceptions import RayError
from ray.serve.context import _get_global_client
from ray.serve.exceptions import RayServeException
from ray.serve.schema import ApplicationStatusOverview, ServeApplicationSchema, ServeDeploySchema

from pipelines.cluster.metrics_table import SettingsInUse
from pipelines.settings.applications import METRICS, version_of
from pipelines.settings.config import INGRESS, LimitsConfig
from pipelines.settings.config_file import IMPORT_PATH, ServeFile, serve_document
from pipelines.settings.rollout import Change, Document, Step, changed, changes, steps
from stages.contract.errors import ConfigurationError

ASK_EVERY_S = 0.25
ANSWER_WITHIN_S = 10.0
RUNNING, DEPLOYING, FAILED = "RUNNING", "DEPLOYING", "DEPLOY_FAILED"
PENDING = frozenset({DEPLOYING, FAILED})
NOT_RUNNING = PENDING | {"NOT_STARTED", "UNHEALTHY"}

Watch = Callable[[Mapping[str, ApplicationStatusOverview]], None]
"""Told now and then how the applications are doing."""


@dataclass(frozen=True, slots=True)
class Rollout:
    """A change on its way. Its configuration's revisions are pinned (`pipelines/settings/pinning.py`). `timeout_s`: of each step."""

    file: ServeFile
    timeout_s: float = 600
    watch: Watch = lambda status: None

    def wanted(self) -> Sequence[Document]:
        return _uniform(serve_document(self.file)["applications"])

    def changes(self) -> Sequence[Change]:
        """What it would do to what runs. Raises `ConfigurationError` where that can't be changed."""
        return changes(_changeable(), self.wanted())

    def apply(self) -> None:
        """Returns once everything runs as configured and nothing else does. Raises `ConfigurationError` where something doesn't start or
        is refused; then what was configured before is so again. What takes too long to end stays, and ends with the next roll-out."""
        before = _changeable()
        planned = steps(before, self.wanted(), self.file.app_name)
        for step in planned:
            if step.ends:
                self._settle(step, before)
            try:
                self._apply(step)
            except ConfigurationError:
                if before and not step.ends:
                    self._configure(before)
                raise
        self._mend(PENDING if planned else NOT_RUNNING)

    def _configure(self, applications: Sequence[Document]) -> None:
        schema = ServeDeploySchema.model_validate({**self.file.options, "applications": list(applications)})
        _get_global_client().deploy_apps(schema)

    def _apply(self, step: Step) -> None:
        now, names = _running(), {document["name"] for document in step.applications}
        judged = changed(now, step.applications) | (names & _those_that_are({DEPLOYING}))
        ending = {document["name"] for document in now} - names
        self._configure(step.applications)
        self._wait(lambda: self._has_come_true(judged, ending), self.timeout_s, step.what)
        if step.tells:
            self._wait(lambda: self._in_use(settled=False), self.timeout_s, "the HTTP surface's new settings")

    def _settle(self, step: Step, before: Sequence[Document]) -> None:
        """Requests by the surface's earlier settings are done."""
        longest_s = max(self.file.app.limits.max_request_s, _longest_request_s(before, self.file.app_name))
        self._wait(
            lambda: self._in_use(settled=True), longest_s + self.timeout_s, f"{step.what}: requests by the old settings"
        )

    def _mend(self, states: AbstractSet[str]) -> None:
        """What is as configured, but doesn't run, starts anew: given the same again, Serve does nothing. Raises `ConfigurationError` where
        it still doesn't start."""
        wanted = self.wanted()
        names = {document["name"] for document in wanted} & _those_that_are(states)
        failed = names & _those_that_are({FAILED})
        if failed:
            self._configure([document for document in wanted if document["name"] not in failed])
            self._wait(lambda: self._has_come_true(set(), failed), self.timeout_s, "what failed ends")
            self._configure(wanted)
        if names:
            self._wait(lambda: self._has_come_true(names, set()), self.timeout_s, "what failed starts again")

    def _wait(self, done: Callable[[], bool], timeout_s: float, what: str) -> None:
        deadline = time.monotonic() + timeout_s
        while not done():
            if time.monotonic() > deadline:
                raise ConfigurationError(f"{what}: not done in {timeout_s:.0f} s: {why_not(serve.status().applications)}")
            time.sleep(ASK_EVERY_S)

    def _has_come_true(self, names: AbstractSet[str], ending: AbstractSet[str]) -> bool:
        """These run, and those have ended. Raises `ConfigurationError` for one that doesn't start."""
        status = serve.status().applications
        self.watch(status)
        failed = {name: app for name, app in status.items() if name in names and app.status.value == FAILED}
        if failed:
            raise ConfigurationError(why_not(failed))
        running = {name for name, app in status.items() if app.status.value == RUNNING}
        return names <= running and not ending & set(status)

    def _surface_version(self) -> str:
        surface = next(document for document in self.wanted() if document["name"] == self.file.app_name)
        given = next(entry for entry in surface["deployments"] if entry["name"] == INGRESS)
        return version_of(given["user_config"])

    def _in_use(self, *, settled: bool) -> bool:
        """Every replica of the HTTP surface takes requests by the wanted settings; `settled`: and has answered those that came before.
        Raises `ConfigurationError` where one refuses them."""
        table = serve.get_deployment_handle(METRICS, self.file.app_name)
        try:
            found: dict[str, SettingsInUse] = table.settings.remote().result(timeout_s=ANSWER_WITHIN_S)
        except (RayError, RayServeException, TimeoutError):
            return False  # the table is being replaced
        version = self._surface_version()
        refused = [each.refused.why for each in found.values() if each.refused is not None and each.refused.version == version]
        if refused:
            raise ConfigurationError(f"the HTTP surface goes on with its old settings: {refused[0]}")
        newest = all(settings.versions[-1:] == (version,) for settings in found.values())
        return bool(found) and newest and not (settled and any(len(settings.versions) > 1 for settings in found.values()))


def why_not(status: Mapping[str, ApplicationStatusOverview]) -> str:
    """What is known of applications that don't run: the reasons' last lines."""
    if not status:
        return "nothing was deployed"
    lines = []
    for name, app in status.items():
        stuck = [
            (at, found.message) for at, found in app.deployments.items() if found.status.value != "HEALTHY" and found.message
        ]
        if app.status.value != RUNNING:
            lines.append(f"{name}: {app.status.value} {_last_line(app.message) if not stuck else ''}".rstrip())
        lines += [f"{at}: {_last_line(message)}" for at, message in stuck]
    return "\n  ".join(lines)


def _running() -> Sequence[Document]:
    """The applications that Serve was given in a config. Those given in code are not told."""
    found = _get_global_client().get_serve_details()["applications"].values()
    return _uniform([app["deployed_app_config"] for app in found if app.get("deployed_app_config")])


def _changeable() -> Sequence[Document]:
    """What runs. Raises `ConfigurationError` where that is Triptych as one application, which ends before its parts can start."""
    running = _running()
    whole = [document["name"] for document in running if document["import_path"] == IMPORT_PATH]
    if whole:
        raise ConfigurationError(
            f"application {whole[0]} runs as one, from `serve run` or `serve deploy` with serve_config.yaml itself: it would end before its "
            "parts have started; end it (`serve shutdown`) and deploy again, or go on with `serve run`"
        )
    return running


def _those_that_are(states: AbstractSet[str]) -> set[str]:
    """Applications in these states."""
    return {name for name, app in serve.status().applications.items() if app.status.value in states}


def _longest_request_s(documents: Sequence[Document], surface: str) -> float:
    """What the HTTP surface of a configuration allows a request."""
    given = [entry for document in documents if document["name"] == surface for entry in document.get("deployments") or ()]
    settings = next((entry.get("user_config") or {} for entry in given if entry["name"] == INGRESS), {})
    allowed: float = settings.get("config", {}).get("limits", {}).get("max_request_s", LimitsConfig().max_request_s)
    return allowed


def _uniform(documents: Sequence[Any]) -> Sequence[Document]:
    """As Serve writes them, so that equal ones are equal."""
    return [ServeApplicationSchema.model_validate(document).model_dump(exclude_unset=True) for document in documents]


def _last_line(message: str) -> str:
    """Of a traceback, what it is about."""
    lines = [line for line in message.splitlines() if line.strip()]
    return lines[-1] if lines else ""

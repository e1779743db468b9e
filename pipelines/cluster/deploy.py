"""Has Ray Serve run what a configuration means, step by step, and waits for each. What the steps are is
`pipelines/settings/rollout.py`. Knows no models; Ray and Serve run already."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ray import serve
from ray.exceptions import RayError
from ray.serve.context import _get_global_client
from ray.serve.exceptions import RayServeException
from ray.serve.schema import ApplicationStatusOverview, ServeApplicationSchema, ServeDeploySchema

from pipelines.cluster.metrics_table import SettingsInUse
from pipelines.settings.applications import METRICS, version_of
from pipelines.settings.config import INGRESS
from pipelines.settings.config_file import ServeFile, serve_document
from pipelines.settings.rollout import Change, Document, Step, changes, steps
from stages.contract.errors import ConfigurationError

ASK_EVERY_S = 0.25
ANSWER_WITHIN_S = 10.0
FAILED = "DEPLOY_FAILED"

Watch = Callable[[Mapping[str, ApplicationStatusOverview]], None]
"""Told now and then how the applications are doing."""


@dataclass(frozen=True, slots=True)
class Rollout:
    """A change on its way. Its configuration's revisions are pinned (`pipelines/settings/pinning.py`)."""

    file: ServeFile
    timeout_s: float = 600
    watch: Watch = lambda status: None

    def wanted(self) -> Sequence[Document]:
        return _uniform(serve_document(self.file)["applications"])

    def changes(self) -> Sequence[Change]:
        """What it would do to what runs."""
        return changes(_running(), self.wanted())

    def apply(self) -> None:
        """Returns once everything runs as configured and nothing else does. Raises `ConfigurationError` where something doesn't start or
        is refused; then what was configured before is so again."""
        before = _running()
        try:
            for step in steps(before, self.wanted(), self.file.app_name):
                self._apply(step)
        except ConfigurationError:
            if before:
                self._configure(before)
            raise

    def _configure(self, applications: Sequence[Document]) -> None:
        schema = ServeDeploySchema.model_validate({**self.file.options, "applications": list(applications)})
        _get_global_client().deploy_apps(schema)

    def _apply(self, step: Step) -> None:
        names = {document["name"] for document in step.applications}
        ending = {document["name"] for document in _running()} - names
        self._configure(step.applications)
        self._wait(lambda: self._has_come_true(names, ending), self.timeout_s, step.what)
        if step.settles:
            version = self._surface_version()
            self._wait(
                lambda: self._settled(version),
                self.file.app.limits.max_request_s + self.timeout_s,
                "requests by the old settings",
            )

    def _wait(self, done: Callable[[], bool], timeout_s: float, what: str) -> None:
        deadline = time.monotonic() + timeout_s
        while not done():
            if time.monotonic() > deadline:
                raise ConfigurationError(f"{what}: not done in {timeout_s:.0f} s: {why_not(serve.status().applications)}")
            time.sleep(ASK_EVERY_S)

    def _has_come_true(self, names: set[str], ending: set[str]) -> bool:
        """These run, and those have ended. Raises `ConfigurationError` for one that doesn't start."""
        status = serve.status().applications
        self.watch(status)
        failed = {name: app for name, app in status.items() if name in names and app.status.value == FAILED}
        if failed:
            raise ConfigurationError(why_not(failed))
        running = {name for name, app in status.items() if app.status.value == "RUNNING"}
        return names <= running and not ending & set(status)

    def _surface_version(self) -> str:
        surface = next(document for document in self.wanted() if document["name"] == self.file.app_name)
        given = next(entry for entry in surface["deployments"] if entry["name"] == INGRESS)
        return version_of(given["user_config"])

    def _settled(self, version: str) -> bool:
        """Every replica of the HTTP surface uses these settings only. Raises `ConfigurationError` where one refuses them."""
        table = serve.get_deployment_handle(METRICS, self.file.app_name)
        try:
            found: dict[str, SettingsInUse] = table.settings.remote().result(timeout_s=ANSWER_WITHIN_S)
        except (RayError, RayServeException, TimeoutError):
            return False  # the table is being replaced
        refused = [settings.refused for settings in found.values() if settings.refused is not None]
        if refused:
            raise ConfigurationError(f"the HTTP surface goes on with its old settings: {refused[0]}")
        return bool(found) and all(settings.versions == (version,) for settings in found.values())


def why_not(status: Mapping[str, ApplicationStatusOverview]) -> str:
    """What is known of applications that don't run: the reasons' last lines."""
    if not status:
        return "nothing was deployed"
    lines = []
    for name, app in status.items():
        stuck = [
            (at, found.message) for at, found in app.deployments.items() if found.status.value != "HEALTHY" and found.message
        ]
        if app.status.value != "RUNNING":
            lines.append(f"{name}: {app.status.value} {_last_line(app.message) if not stuck else ''}".rstrip())
        lines += [f"{at}: {_last_line(message)}" for at, message in stuck]
    return "\n  ".join(lines)


def _running() -> Sequence[Document]:
    """The applications that Serve was given in a config. Those given in code are not told."""
    found = _get_global_client().get_serve_details()["applications"].values()
    return _uniform([app["deployed_app_config"] for app in found if app.get("deployed_app_config")])


def _uniform(documents: Sequence[Any]) -> Sequence[Document]:
    """As Serve writes them, so that equal ones are equal."""
    return [ServeApplicationSchema.model_validate(document).model_dump(exclude_unset=True) for document in documents]


def _last_line(message: str) -> str:
    """Of a traceback, what it is about."""
    lines = [line for line in message.splitlines() if line.strip()]
    return lines[-1] if lines else ""

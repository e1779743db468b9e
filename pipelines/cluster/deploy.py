"""Has Ray Serve run what a configuration means, step by step, and waits for each. What the steps are is
`pipelines/settings/serve/rollout.py`. Knows no models; Ray and Serve run already (`pipelines/cluster/running_serve.py`)."""

from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Any, Protocol

from ray.serve.schema import ApplicationStatusOverview, ServeApplicationSchema

from pipelines.cluster.running_serve import RunningServe
from pipelines.cluster.state.metrics_table import SettingsInUse
from pipelines.settings.config_file import IMPORT_PATH, ServeFile, serve_document
from pipelines.settings.schema.config import INGRESS, LimitsConfig
from pipelines.settings.serve.applications import version_of
from pipelines.settings.serve.rollout import Change, Document, Step, changed, changes, steps
from stages.contract.errors import ConfigurationError

RUNNING, DEPLOYING, FAILED = "RUNNING", "DEPLOYING", "DEPLOY_FAILED"
PENDING = frozenset({DEPLOYING, FAILED})
NOT_RUNNING = PENDING | {"NOT_STARTED", "UNHEALTHY"}

Watch = Callable[[Mapping[str, ApplicationStatusOverview]], None]
"""Told now and then how the applications are doing."""


class Serve(Protocol):
    """See `RunningServe`."""

    def applications(self) -> Sequence[Document]: ...

    def status(self) -> Mapping[str, ApplicationStatusOverview]: ...

    def configure(self, config: Mapping[str, Any]) -> None: ...

    def settings_in_use(self, surface: str) -> Mapping[str, SettingsInUse]: ...

    def now(self) -> float: ...

    def pause(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Rollout:
    """A change on its way. Its configuration's revisions are pinned (`pipelines/settings/pinning.py`). `timeout_s`: of each step."""

    file: ServeFile
    timeout_s: float = 600
    watch: Watch = lambda status: None
    serve: Serve = field(default_factory=RunningServe)

    def wanted(self) -> Sequence[Document]:
        return _uniform(serve_document(self.file)["applications"])

    def changes(self) -> Sequence[Change]:
        """What it would do to what runs. Raises `ConfigurationError` where that can't be changed."""
        return changes(self._changeable(), self.wanted())

    def apply(self) -> None:
        """Returns once everything runs as configured and nothing else does. Raises `ConfigurationError` where something doesn't start or
        is refused; then what was configured before is so again. What takes too long to end stays, and ends with the next roll-out."""
        before = self._changeable()
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

    def _running(self) -> Sequence[Document]:
        return _uniform(self.serve.applications())

    def _changeable(self) -> Sequence[Document]:
        """What runs. Raises `ConfigurationError` where that is Triptych as one application, which would end before its parts start."""
        running = self._running()
        whole = [document["name"] for document in running if document["import_path"] == IMPORT_PATH]
        if whole:
            raise ConfigurationError(
                f"application {whole[0]} runs as one, from `serve run` or `serve deploy` with serve_config.yaml itself: it would end "
                "before its parts have started; end it (`serve shutdown`) and deploy again, or go on with `serve run`"
            )
        return running

    def _configure(self, applications: Sequence[Document]) -> None:
        self.serve.configure({**self.file.options, "applications": list(applications)})

    def _apply(self, step: Step) -> None:
        """Judges what the step changes, and what is still on its way from an earlier one."""
        now, names = self._running(), {document["name"] for document in step.applications}
        judged = changed(now, step.applications) | (names & self._those_that_are({DEPLOYING}))
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
        names = {document["name"] for document in wanted} & self._those_that_are(states)
        failed = names & self._those_that_are({FAILED})
        if failed:
            self._configure([document for document in wanted if document["name"] not in failed])
            self._wait(lambda: self._has_come_true(set(), failed), self.timeout_s, "what failed ends")
            self._configure(wanted)
        if names:
            self._wait(lambda: self._has_come_true(names, set()), self.timeout_s, "what did not run")

    def _wait(self, done: Callable[[], bool], timeout_s: float, what: str) -> None:
        deadline = self.serve.now() + timeout_s
        while not done():
            if self.serve.now() > deadline:
                raise ConfigurationError(f"{what}: not done in {timeout_s:.0f} s: {why_not(self.serve.status())}")
            self.serve.pause()

    def _has_come_true(self, names: AbstractSet[str], ending: AbstractSet[str]) -> bool:
        """These run, and those have ended. Raises `ConfigurationError` for one that doesn't start."""
        status = self.serve.status()
        self.watch(status)
        failed = {name: app for name, app in status.items() if name in names and app.status.value == FAILED}
        if failed:
            raise ConfigurationError(why_not(failed))
        running = {name for name, app in status.items() if app.status.value == RUNNING}
        return names <= running and not ending & set(status)

    def _those_that_are(self, states: AbstractSet[str]) -> set[str]:
        """Applications in these states."""
        return {name for name, app in self.serve.status().items() if app.status.value in states}

    def _in_use(self, *, settled: bool) -> bool:
        """Every replica of the HTTP surface takes requests by the wanted settings; `settled`: and has answered those that came before.
        Raises `ConfigurationError` where one refuses them."""
        version = version_of(_surface_settings(self.wanted(), self.file.app_name))
        found = self.serve.settings_in_use(self.file.app_name).values()
        refused = [each.refused.why for each in found if each.refused is not None and each.refused.version == version]
        if refused:
            raise ConfigurationError(f"the HTTP surface goes on with its old settings: {refused[0]}")
        newest = all(each.versions[-1:] == (version,) for each in found)
        return bool(found) and newest and not (settled and any(len(each.versions) > 1 for each in found))


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


def _surface_settings(documents: Sequence[Document], surface: str) -> Mapping[str, Any]:
    """The HTTP surface's `user_config`."""
    overrides = [entry for document in documents if document["name"] == surface for entry in document.get("deployments") or ()]
    return next((entry.get("user_config") or {} for entry in overrides if entry["name"] == INGRESS), {})


def _longest_request_s(documents: Sequence[Document], surface: str) -> float:
    limits = _surface_settings(documents, surface).get("config", {}).get("limits", {})
    return float(limits.get("max_request_s", LimitsConfig().max_request_s))


def _uniform(documents: Sequence[Any]) -> Sequence[Document]:
    """As Serve writes them, so that equal ones are equal."""
    return [ServeApplicationSchema.model_validate(document).model_dump(exclude_unset=True) for document in documents]


def _last_line(message: str) -> str:
    """Of a traceback, what it is about."""
    lines = [line for line in message.splitlines() if line.strip()]
    return lines[-1] if lines else ""

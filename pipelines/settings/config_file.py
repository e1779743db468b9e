"""Reads `serve_config.yaml`: an ordinary Ray Serve config, in which everything of Triptych's own is the `args` of the application
whose import path is `pipelines.app:build`. What those may say is `pipelines/settings/schema/config.py`, what of it fits together
`pipelines/settings/derived.py`. `serve_document` is what Serve is given in its place, so that a change restarts only what it changes."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, Field, ValidationError

from pipelines.settings.derived import faults
from pipelines.settings.overlay import overlaid
from pipelines.settings.schema.config import AppConfig
from pipelines.settings.schema.strict import Strict
from pipelines.settings.serve.applications import applications
from pipelines.settings.serve.scaled import budget_faults
from stages.contract.errors import ConfigurationError

IMPORT_PATH = "pipelines.app:build"
COMMON = ("runtime_env", "logging_config")  # of Triptych's application: each of those that it becomes gets them
SECRET = ("auth", "cache")  # whose values are not told
MISPLACED = frozenset({"extra_forbidden", "model_type", "dict_type", "list_type", "tuple_type"})
"""Errors about values that no setting has a place for: what they hold may be a secret that stands a line too high."""

Model = TypeVar("Model", bound=BaseModel)


class HttpConfig(BaseModel):
    """The part of the file that is Serve's own and that the command line needs."""

    host: str = Field("127.0.0.1", min_length=1)
    port: int = Field(8000, ge=0, le=65535)


class ServeFile(BaseModel):
    """A Serve config file, read for Triptych's application. `options`: the file's without its applications; `common`: what each of
    Triptych's gets; `others`: applications that aren't Triptych's."""

    http: HttpConfig
    app_name: str
    app: AppConfig
    options: Mapping[str, Any] = {}
    common: Mapping[str, Any] = {}
    others: Sequence[Mapping[str, Any]] = ()


class _Document(BaseModel):
    """The file's own settings, of which Serve knows more."""

    proxy_location: Literal["Disabled", "HeadOnly", "EveryNode"] | None = None
    http_options: HttpConfig | None = None
    applications: list[dict[str, Any]] = []


class _Application(Strict):
    """Triptych's entry. What else Serve allows there would mean nothing."""

    name: str = Field("triptych", min_length=1)
    import_path: str
    route_prefix: Literal["/"] = "/"
    args: dict[str, Any] | None = None
    runtime_env: dict[str, Any] = {}
    logging_config: dict[str, Any] | None = None


def load(path: Path, overlays: Sequence[Path] = ()) -> ServeFile:
    """Reads a Serve config file, and lays others over it, one after another (`pipelines/settings/overlay.py`). Raises
    `ConfigurationError`."""
    given = _read(path)
    for overlay in overlays:
        given = _overlaid(given, overlay)
    document = _checked(_Document, given)
    ours = [app for app in document.applications if app.get("import_path") == IMPORT_PATH]
    if len(ours) != 1:
        raise ConfigurationError(f"{path}: applications: exactly one must have import_path {IMPORT_PATH}; found {len(ours)}")
    (entry,) = ours
    if entry.get("deployments"):
        raise ConfigurationError(
            f"{path}: applications: deployments beside args is Serve's own list, which Triptych fills; set these under args.deployments"
        )
    app = _checked(_Application, {key: value for key, value in entry.items() if key != "deployments"}, "applications.")
    return ServeFile(
        http=document.http_options or HttpConfig(),
        app_name=app.name,
        app=parse(app.args or {}),
        options={key: value for key, value in given.items() if key != "applications" and value is not None},
        common={key: entry[key] for key in COMMON if key in entry},
        others=[other for other in document.applications if other is not entry],
    )


def read_text(path: Path) -> str:
    """Raises `ConfigurationError`."""
    try:
        return path.read_text()
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigurationError(f"{path}: it is not text in UTF-8") from None


def _read(path: Path) -> dict[str, Any]:
    text = read_text(path)
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigurationError(f"{path}: not YAML: {_where(error)}") from None
    return {str(key): value for key, value in document.items()} if isinstance(document, dict) else {}


def _overlaid(base: Mapping[str, Any], path: Path) -> dict[str, Any]:
    given = _read(path)
    try:
        return overlaid(base, given)
    except ConfigurationError as error:
        raise ConfigurationError(f"{path}: {error.message}") from None


def _where(error: yaml.YAMLError) -> str:
    """Without the line itself, which the library would quote."""
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    if mark is None:
        return "it is not text in UTF-8"
    return f"line {mark.line + 1}, column {mark.column + 1}: {str(problem).partition(chr(39))[0].strip()}"


def _checked(model: type[Model], given: Mapping[str, Any], within: str = "") -> Model:
    try:
        return model.model_validate(given)
    except ValidationError as error:
        raise refused([within + line for line in told(error)]) from None


def serve_document(file: ServeFile) -> dict[str, Any]:
    """The Serve config that the file means: as it stands, with several applications in place of Triptych's one."""
    ours = [app.document(file.common) for app in applications(file.app, file.app_name)]
    return {**file.options, "applications": [*ours, *map(dict, file.others)]}


def parse(args: Any) -> AppConfig:
    """A configuration that can work. Raises `ConfigurationError` with one line for every setting at fault: path, value, what is
    allowed."""
    try:
        config = AppConfig.model_validate(args)
    except ValidationError as error:
        raise refused(told(error)) from None
    found = [*faults(config), *budget_faults(config)]
    if found:
        raise refused(found)
    return config


def refused(lines: Sequence[str]) -> ConfigurationError:
    return ConfigurationError("configuration refused:\n  " + "\n  ".join(lines))


def told(error: ValidationError) -> Sequence[str]:
    """A line for every setting at fault."""
    lines = []
    for detail in error.errors():
        path = ".".join(str(part) for part in detail["loc"]) or "args"
        given = "" if detail["type"] in MISPLACED else _given(path, detail["input"])
        lines.append(f"{path}: {detail['msg'].removeprefix('Value error, ')}{given}")
    return lines


def _given(path: str, value: object) -> str:
    """What was given, to be told, but no secret: a mistyped URL holds its password, a mistyped digest may be the key itself, and what
    holds several things may hold either."""
    if isinstance(value, Mapping | list | tuple) or "@" in repr(value):
        return ""
    return "" if path.startswith(SECRET) and not isinstance(value, int | float) else f" (given: {value!r})"

"""Reads `serve_config.yaml`: an ordinary Ray Serve config, in which everything of Triptych's own is the `args` of the application
whose import path is `pipelines.app:build`. What those may say is `pipelines/settings/config.py`, what of it fits together
`pipelines/settings/derived.py`. `serve_document` is what Serve is given in its place, so that a change restarts only what it changes."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from pipelines.settings.applications import applications
from pipelines.settings.config import AppConfig
from pipelines.settings.derived import faults
from stages.contract.errors import ConfigurationError

IMPORT_PATH = "pipelines.app:build"
COMMON = ("runtime_env", "logging_config")  # of Triptych's application: each of those that it becomes gets them
SECRET = ("auth", "cache")  # whose values are not told


class HttpConfig(BaseModel):
    """The part of the file that is Serve's own and that the command line needs."""

    host: str = "127.0.0.1"
    port: int = 8000


class ServeFile(BaseModel):
    """A Serve config file, read for Triptych's application. `options`: the file's without its applications; `common`: what each of
    Triptych's gets; `others`: applications that aren't Triptych's."""

    http: HttpConfig
    app_name: str
    app: AppConfig
    options: Mapping[str, Any] = {}
    common: Mapping[str, Any] = {}
    others: Sequence[Mapping[str, Any]] = ()


def load(path: Path) -> ServeFile:
    """Reads a Serve config file. Raises `ConfigurationError`."""
    try:
        document = yaml.safe_load(path.read_text())
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read: {error.strerror}") from None
    except yaml.YAMLError as error:
        raise ConfigurationError(f"{path}: not YAML: {error}") from None
    applications = document.get("applications") if isinstance(document, dict) else None
    ours = [app for app in applications or [] if isinstance(app, dict) and app.get("import_path") == IMPORT_PATH]
    if len(ours) != 1:
        raise ConfigurationError(f"{path}: applications: exactly one must have import_path {IMPORT_PATH}; found {len(ours)}")
    (app,) = ours
    if app.get("deployments"):
        raise ConfigurationError(
            f"{path}: applications: deployments beside args is Serve's own list, which Triptych fills; set these under args.deployments"
        )
    return ServeFile(
        http=HttpConfig.model_validate(document.get("http_options") or {}),
        app_name=app.get("name", "triptych"),
        app=parse(app.get("args") or {}),
        options={key: value for key, value in document.items() if key != "applications"},
        common={key: app[key] for key in COMMON if key in app},
        others=[other for other in document["applications"] if other is not app],
    )


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
        raise _refused(_told(error)) from None
    found = faults(config)
    if found:
        raise _refused(found)
    return config


def _refused(lines: Sequence[str]) -> ConfigurationError:
    return ConfigurationError("configuration refused:\n  " + "\n  ".join(lines))


def _told(error: ValidationError) -> Sequence[str]:
    lines = []
    for detail in error.errors():
        path = ".".join(str(part) for part in detail["loc"]) or "args"
        lines.append(f"{path}: {detail['msg'].removeprefix('Value error, ')}{_given(path, detail['input'])}")
    return lines


def _given(path: str, value: object) -> str:
    """What was given, to be told, but no secret: a mistyped URL holds its password, a mistyped digest may be the key itself."""
    if isinstance(value, Mapping) or "@" in repr(value):
        return ""
    return "" if path.startswith(SECRET) and not isinstance(value, int | float) else f" (given: {value!r})"

"""A configuration that says what its sources hold: hub sources name commits, folders and demo weights the digests of their files. That is
found out once, where the configuration is deployed from, and every process that loads something else refuses to start.

Otherwise a push, or a copy into a folder, between two processes' starts would have them load different weights, and remember results of
the one under the names of the other. Deployed again, a source that holds something else is another model to Serve
(`pipelines/settings/serve/applications.py`), which starts beside the old one. What this machine can't find out (no hub, no such folder
here) stays open: each process asks for itself, and a stage refuses requests that were made for others (`pipelines/agreement.py`). Knows
neither stages nor Ray.
"""

import logging
from collections.abc import Mapping
from typing import TypeVar

from pydantic import BaseModel

from pipelines.settings.schema.config import ContentsConfig, PartConfig, SourceConfig
from pipelines.settings.serve.specs import stage_spec
from stages.checkpoints.hub import commit_of
from stages.contract.errors import ConfigurationError

M = TypeVar("M", bound=BaseModel)
log = logging.getLogger("triptych.configuration")


def pinned(config: M) -> M:
    """The same, with commits for revisions and contents for folders, as far as this machine knows them. Reads every byte of what is in
    folders here."""
    commits: dict[tuple[str, str | None], str | None] = {}
    return _pinned_model(config, commits)


def _pinned_model(model: M, commits: dict[tuple[str, str | None], str | None]) -> M:
    if isinstance(model, SourceConfig):
        if model.hub is None:
            return model
        return model.model_copy(update={"revision": _commit(model.hub, model.revision, commits)})
    return model.model_copy(update={name: _pinned(getattr(model, name), name, commits) for name in type(model).model_fields})


def _pinned(value: object, name: str, commits: dict[tuple[str, str | None], str | None]) -> object:
    if isinstance(value, BaseModel):
        pinned_value = _pinned_model(value, commits)
        return _with_contents(pinned_value, name) if isinstance(pinned_value, PartConfig) else pinned_value
    if isinstance(value, Mapping):
        return {key: _pinned(entry, str(key), commits) for key, entry in value.items()}
    return value


def _with_contents(part: PartConfig, kind: str) -> PartConfig:
    """`kind`: the field that it stands in. What is given already stays: it was found out elsewhere."""
    projector = getattr(part, "projector", None)
    if part.contents is not None or not any(source.hub is None for source in (part.source, projector) if source is not None):
        return part
    try:
        found = stage_spec(f"source.{kind}", part).contents()
    except ConfigurationError as error:
        log.warning("%s; every process that loads it looks for itself", error)
        return part
    return part.model_copy(update={"contents": ContentsConfig(settings=found.settings, whole=found.whole)})


def _commit(repository: str, revision: str | None, commits: dict[tuple[str, str | None], str | None]) -> str | None:
    if (repository, revision) not in commits:
        try:
            commits[repository, revision] = commit_of(repository, revision)
        except ConfigurationError as error:
            log.warning("%s; every process that loads it asks for itself", error)
            commits[repository, revision] = revision
    return commits[repository, revision]

"""A configuration whose hub sources name commits: what a branch means is asked once, and every process loads that.

Otherwise a push between two processes' starts would have them load different weights, and remember results of the one under the
names of the other. Knows neither stages nor Ray.
"""

import logging
from collections.abc import Mapping
from typing import TypeVar

from pydantic import BaseModel

from pipelines.settings.config import SourceConfig
from stages.checkpoints.hub import commit_of
from stages.contract.errors import ConfigurationError

M = TypeVar("M", bound=BaseModel)
log = logging.getLogger("triptych.configuration")


def pinned(config: M) -> M:
    """The same, with commits for revisions. Where the hub cannot be asked and the cache doesn't know, the revision stays, and each
    process asks for itself."""
    commits: dict[tuple[str, str | None], str | None] = {}
    return _pinned_model(config, commits)


def _pinned_model(model: M, commits: dict[tuple[str, str | None], str | None]) -> M:
    if isinstance(model, SourceConfig):
        if model.hub is None:
            return model
        return model.model_copy(update={"revision": _commit(model.hub, model.revision, commits)})
    return model.model_copy(update={name: _pinned(getattr(model, name), commits) for name in type(model).model_fields})


def _pinned(value: object, commits: dict[tuple[str, str | None], str | None]) -> object:
    if isinstance(value, BaseModel):
        return _pinned_model(value, commits)
    if isinstance(value, Mapping):
        return {key: _pinned(entry, commits) for key, entry in value.items()}
    return value


def _commit(repository: str, revision: str | None, commits: dict[tuple[str, str | None], str | None]) -> str | None:
    if (repository, revision) not in commits:
        try:
            commits[repository, revision] = commit_of(repository, revision)
        except ConfigurationError as error:
            log.warning("%s; every process that loads it asks for itself", error)
            commits[repository, revision] = revision
    return commits[repository, revision]

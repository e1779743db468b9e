"""A part's files from a hub repository, or from what this machine's hub cache holds of it.

Decides what is asked of the hub (the part's files at one commit, and nothing that is there already) and what a failure says:
repository, file, and what to set. Which files those are is `stages/checkpoints/part_files.py`; endpoint, token, cache and going offline
are huggingface_hub's own settings (HF_ENDPOINT, HF_TOKEN, HF_HOME, HF_HUB_OFFLINE).
"""

import errno
import json
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stages.checkpoints.part_files import PartFiles
from stages.contract.errors import ConfigurationError

log = logging.getLogger("triptych.checkpoints")


def commit_of(repository: str, revision: str | None) -> str:
    """The commit that a branch or tag means now; where the hub cannot be reached, the one that this machine's cache knows it as.
    Raises `ConfigurationError`."""
    from huggingface_hub import resolve_revision

    try:
        commit = resolve_revision(repository, revision=revision).resolved
    except Exception as error:
        raise ConfigurationError(_explained(repository, revision, [], error)) from error
    if commit != revision:
        log.info("%s is commit %s", _at(repository, revision), commit)
    return commit


def fetched(repository: str, revision: str | None, part: PartFiles) -> tuple[Path, str]:
    """The folder that holds the part's files (and maybe others), and its commit. Raises `ConfigurationError`."""
    commit = commit_of(repository, revision)
    names = _names(repository, revision, commit)
    try:
        folder = _with_files(repository, revision, commit, sorted({*part.settings_in(names), *part.neighbours_in(names)}))

        def read(name: str) -> Mapping[str, object]:
            _with_files(repository, revision, commit, [name])
            return dict(json.loads((folder / name).read_text()))

        return _with_files(repository, revision, commit, part.weights_in(names, read)), commit
    except ConfigurationError as error:
        where = f"source.hub: {_at(repository, revision)}"
        message = error.message if error.message.startswith(where) else f"{where}: {error.message}"
        raise ConfigurationError(message) from error.__cause__
    except (OSError, ValueError) as error:
        raise ConfigurationError(_explained(repository, revision, [], error)) from error


def _names(repository: str, revision: str | None, commit: str) -> list[str]:
    """All files of the commit; where neither the hub nor its cached listing tells, those that are in the cache."""
    from huggingface_hub import HfApi, get_cached_repo_tree
    from huggingface_hub.errors import CachedRepoTreeNotFoundError
    from huggingface_hub.hf_api import RepoFile

    try:
        return [file.path for file in get_cached_repo_tree(repository, revision=commit)]
    except CachedRepoTreeNotFoundError:
        pass
    try:
        found = HfApi().list_repo_tree(repository, revision=commit, recursive=True)
        return [entry.path for entry in found if isinstance(entry, RepoFile)]
    except Exception as error:
        folder = _snapshot(repository, commit)
        if not folder.is_dir():
            raise ConfigurationError(_explained(repository, revision, [], error)) from error
        return [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]


def _with_files(repository: str, revision: str | None, commit: str, names: Sequence[str]) -> Path:
    """The commit's folder, once it holds these files."""
    from huggingface_hub import snapshot_download

    folder = _snapshot(repository, commit)
    failure: Exception | None = None
    if _missing(folder, names):
        try:
            snapshot_download(repository, revision=commit, allow_patterns=list(map(_literally, names)))
        except Exception as error:
            failure = error
    if missing := _missing(folder, names):
        raise ConfigurationError(_explained(repository, revision, missing, failure)) from failure
    return folder


def _snapshot(repository: str, commit: str) -> Path:
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    name = repo_folder_name(repo_id=repository, repo_type="model")
    return Path(constants.HF_HUB_CACHE).expanduser() / name / "snapshots" / commit


def _missing(folder: Path, names: Sequence[str]) -> list[str]:
    return [name for name in names if not (folder / name).is_file()]


def _literally(name: str) -> str:
    """A pattern for this name only."""
    return re.sub(r"([*?\[])", r"[\1]", name)


def _at(repository: str, revision: str | None) -> str:
    return f"{repository}@{revision or 'main'}"


def _explained(repository: str, revision: str | None, missing: Sequence[str], error: Exception | None) -> str:
    """Repository, file, what happened and what to do about it."""
    files = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
    where = f"source.hub: {_at(repository, revision)}" + (f": {files}" if files else "")
    return f"{where} cannot be had: {reason_for(repository, revision, error)}"


def reason_for(repository: str, revision: str | None, error: Exception | None) -> str:
    """Why nothing came, and what to set; None: nobody said why."""
    from huggingface_hub import constants, errors, is_offline_mode

    asked = f"the hub at {constants.ENDPOINT} (HF_ENDPOINT)"
    cache = f"this machine's cache {constants.HF_HUB_CACHE} (HF_HOME)"
    status = getattr(getattr(error, "response", None), "status_code", None)
    for cause in _causes(error):
        if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
            return f"the disk with {cache} is full; make room there, or set HF_HOME to a folder on another"
    if is_offline_mode():
        return f"it is not in {cache}, and HF_HUB_OFFLINE is set; unset it to download, or give a revision that is cached"
    if isinstance(error, errors.GatedRepoError):
        return (
            f"it is gated; accept its terms at {constants.ENDPOINT}/{repository}, and set HF_TOKEN to a token of that account"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{asked} has no such revision; check source.revision, {revision!r}: a branch, a tag or a commit"
    if isinstance(error, errors.RepositoryNotFoundError):
        return (
            f"{asked} has no such repository, or a private one; check source.hub, or set HF_TOKEN to a token that may read it"
        )
    if isinstance(error, errors.RemoteEntryNotFoundError):
        return f"{asked} has no such file"
    if status in (401, 403):
        return f"{asked} refuses it ({status}); set HF_TOKEN to a token that may read it"
    if status == 429:
        return f"{asked} is asked too often (429); wait, or set HF_TOKEN, which allows more"
    return (
        f"{asked} did not give it ({type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no reason'}); check the "
        f"network and HF_ENDPOINT, or fetch it into {cache} where the hub can be reached"
    )


def _causes(error: Any) -> list[BaseException]:
    """The error, and what it came from."""
    found: list[BaseException] = []
    while isinstance(error, BaseException) and error not in found and len(found) < 10:
        found.append(error)
        error = error.__cause__ or error.__context__
    return found

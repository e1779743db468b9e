"""One configuration laid over another: what differs from the one-machine file on a cluster, said without saying the rest again.

Decides what lies where: mappings are merged key by key; lists whose entries have names (`applications`) are merged by those; every other
list and value takes the place of what was there, null too, which turns a thing off. `$patch: delete` takes something away, `$patch:
replace` beside its settings puts a whole mapping in its place, as in patches of Kubernetes. Pure; knows no setting.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from stages.contract.errors import ConfigurationError

PATCH = "$patch"
DELETE, REPLACE = "delete", "replace"


def overlaid(base: Mapping[str, Any], overlay: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """The base with what the overlay says. `path`: where both stand, for errors. Raises `ConfigurationError` for a patch that means
    nothing, and for one that deletes what is not there."""
    found = dict(base)
    for key, given in overlay.items():
        where = f"{path}{key}"
        if key == PATCH:
            raise ConfigurationError(
                f"{where}: {given!r} means nothing here; write {DELETE} or {REPLACE} within a setting's mapping"
            )
        if _patch_of(given, where) == DELETE:
            _refuse_what_is_not_there(key, found, where)
            del found[key]
        else:
            found[key] = _laid(found.get(key), given, where)
    return found


def _laid(before: Any, given: Any, where: str) -> Any:
    if isinstance(given, Mapping):
        whole = _patch_of(given, where) == REPLACE
        rest = {key: value for key, value in given.items() if key != PATCH}
        return overlaid(before if isinstance(before, Mapping) and not whole else {}, rest, f"{where}.")
    if _named(before) and _named(given):
        return _by_name(before, given, where)
    return given


def _by_name(before: Sequence[Mapping[str, Any]], given: Sequence[Mapping[str, Any]], where: str) -> list[Any]:
    """In the base's order, new ones last."""
    names = {str(entry["name"]): dict(entry) for entry in before}
    laid = overlaid(names, {str(entry["name"]): entry for entry in given}, f"{where}.")
    return list(laid.values())


def _named(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(entry, Mapping) and "name" in entry for entry in value)


def _patch_of(given: Any, where: str) -> str | None:
    patch = given.get(PATCH) if isinstance(given, Mapping) else None
    if patch not in (None, DELETE, REPLACE):
        raise ConfigurationError(f"{where}.{PATCH}: {patch!r} is neither {DELETE} nor {REPLACE}")
    return patch


def _refuse_what_is_not_there(key: str, found: Mapping[str, Any], where: str) -> None:
    if key not in found:
        raise ConfigurationError(f"{where}: there is none to delete; there are {', '.join(map(str, found)) or 'none at all'}")

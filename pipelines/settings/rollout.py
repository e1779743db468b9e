"""What a change of the configuration does to what runs, and in which order it is done.

Pure: takes Serve applications as they stand in a Serve config (`ServeApplication.document`), gives them back. Decides that what the
HTTP surface will need is there before the surface is told of it, and that what it no longer needs goes after its last request.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

Document = Mapping[str, Any]
_MISSING = object()


class Effect(StrEnum):
    """On the replicas of a deployment."""

    STARTS = "starts"
    RESTARTS = "restarts, new replicas first"
    RECONFIGURED = "changed in place"
    ENDS = "ends"


@dataclass(frozen=True, slots=True)
class Change:
    """`settings`: what differs, as paths."""

    deployment: str
    effect: Effect
    settings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Step:
    """All that is to run. Afterwards nobody may need what a later step ends: `settles` says that the surface's old settings must
    be out of use before it."""

    what: str
    applications: tuple[Document, ...]
    settles: bool = False


def changes(now: Sequence[Document], wanted: Sequence[Document]) -> Sequence[Change]:
    """What differs, a deployment each; what stays as it is, is left out."""
    before, after = _named(now), _named(wanted)
    found = [Change(title, Effect.ENDS) for name in before if name not in after for title in _titles(before[name])]
    for name, document in after.items():
        if name not in before:
            found += [Change(title, Effect.STARTS) for title in _titles(document)]
        else:
            found += _changes_of(before[name], document)
    return found


def steps(now: Sequence[Document], wanted: Sequence[Document], surface: str) -> Sequence[Step]:
    """From what runs to what is wanted. `surface`: the name of the HTTP surface's application."""
    before, after = _named(now), _named(wanted)
    if surface not in before:
        return [Step("everything starts", tuple(wanted))]
    kept = {name: document for name, document in before.items() if name not in after or _loses_stages(document, after[name])}
    prepared = {**after, **kept, surface: before[surface]}
    switched = {**after, **kept, surface: after[surface]}
    planned = [
        Step("stages", tuple(prepared.values())),
        Step("the HTTP surface", tuple(switched.values()), settles=True),
        Step("what is no longer needed ends", tuple(after.values())),
    ]
    running, needed = before, list[Step]()
    for step in planned:
        if _named(step.applications) != running:
            needed.append(step)
            running = _named(step.applications)
    return needed


def restarts_with(document: Document) -> Mapping[str, Any]:
    """What Serve keys replicas of an application on (`get_app_code_version`), as far as Triptych sets it."""
    scaled = [
        given["autoscaling_config"].get("policy") for given in _overrides(document).values() if given.get("autoscaling_config")
    ]
    return {
        "args": document.get("args") or {},
        "import_path": document.get("import_path"),
        "runtime_env": document.get("runtime_env") or {},
        "autoscaling": scaled,
    }


def _changes_of(before: Document, after: Document) -> Sequence[Change]:
    restarts = tuple(_differing(restarts_with(before), restarts_with(after)))
    old, new = _overrides(before), _overrides(after)
    if restarts:
        return [Change(title, Effect.RESTARTS, restarts) for title in _titles(after)]
    reconfigured = {name: tuple(_differing(old.get(name, {}), given)) for name, given in new.items()}
    return [Change(name, Effect.RECONFIGURED, settings) for name, settings in reconfigured.items() if settings]


def _differing(before: Any, after: Any, path: str = "") -> Iterator[str]:
    """Paths of what differs. A list counts as a mapping of its entries by their names, or of their places where they have none."""
    old, new = _entries(before), _entries(after)
    if old is None or new is None:
        if before != after:
            yield path
        return
    for key in dict.fromkeys((*old, *new)):
        yield from _differing(old.get(key, _MISSING), new.get(key, _MISSING), f"{path}.{key}" if path else str(key))


def _entries(value: Any) -> Mapping[Any, Any] | None:
    if isinstance(value, Mapping):
        return value
    if isinstance(value, Sequence) and not isinstance(value, str):
        return {entry.get("name", at) if isinstance(entry, Mapping) else at: entry for at, entry in enumerate(value)}
    return None


def _loses_stages(before: Document, after: Document) -> bool:
    return bool(_stages(before) - _stages(after))


def _stages(document: Document) -> set[str]:
    return set((document.get("args") or {}).get("stages") or ())


def _titles(document: Document) -> Sequence[str]:
    return tuple(_overrides(document)) or (document["name"],)


def _overrides(document: Document) -> dict[str, Mapping[str, Any]]:
    return {given["name"]: given for given in document.get("deployments") or ()}


def _named(documents: Sequence[Document]) -> dict[str, Document]:
    return {document["name"]: document for document in documents}

"""What a change of the configuration does to what runs, and in which order it is done.

Pure: takes Serve applications as they stand in a Serve config (`ServeApplication.document`), gives them back. Decides that what the
HTTP surface, or another deployment, will need is there before either is told of it, and that what it no longer needs goes after its last
request. Where two don't fit beside each other (`max_surge_percent: 0`), the old one goes before the new one starts, and requests for it
wait.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from pipelines.settings.serve.scaled import SCALER

Document = Mapping[str, Any]
_MISSING = object()


class Effect(StrEnum):
    """On the replicas of a deployment."""

    STARTS = "starts"
    RESTARTS = "restarts, new replicas first"
    RESTARTS_OLD_FIRST = "restarts, old replicas go first"
    REPLACED = "replaced, the old one goes after its last request"
    REPLACED_OLD_FIRST = "replaced, the old one goes first"
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
    """All that is to run. `tells`: the HTTP surface gets other settings by it. `ends`: something goes by it that requests by the
    surface's earlier settings may need, so they must be done before."""

    what: str
    applications: tuple[Document, ...]
    tells: bool = False
    ends: bool = False


def changes(now: Sequence[Document], wanted: Sequence[Document]) -> Sequence[Change]:
    """What differs, a deployment each; what stays as it is, is left out."""
    before, after = _named(now), _named(wanted)
    gone, new = _by_title(before, after), _by_title(after, before)
    found = [Change(title, Effect.ENDS) for title in gone if title not in new]
    for name, document in after.items():
        if name in before:
            found += _changes_of(before[name], document)
        else:
            found += [_change_to(title, document, gone.get(title)) for title in _titles(document)]
    return found


def steps(now: Sequence[Document], wanted: Sequence[Document], surface: str) -> Sequence[Step]:
    """From what runs to what is wanted. `surface`: the name of the HTTP surface's application. The scaler is told of new stages when the
    surface is: until then they keep the numbers that they begin with."""
    before, after = _named(now), _named(wanted)
    if surface not in before:
        return [Step("everything starts", tuple(wanted))]
    leaving = {name: document for name, document in before.items() if name not in after}
    gone, new = _by_title(before, after), _by_title(after, before)
    late = {new[title]["name"] for title in new if title in gone and not _has_room(title, new[title])}
    early = {name: document for name, document in after.items() if name not in late}
    waiting = {name: before[name] for name, document in early.items() if name in before and _asked_by(document) & late}
    meanwhile = {**early, **leaving, **waiting}  # who asks what has no room yet goes on with what is there
    last = (surface, f"{surface}-{SCALER}")
    stages = {name: document for name, document in meanwhile.items() if name not in last}
    untold = {name: before[name] for name in last if name in before}
    planned = [
        Step("new stages", _all({**{name: early[name] for name in stages if name not in before}, **before})),
        Step("stages", _all({**stages, **untold})),
        Step("the HTTP surface", _all({**meanwhile, surface: after[surface]}), tells=True),
        Step("what is no longer needed ends", _all(early), ends=True),
        Step("what had no room before", _all(after)),
    ]
    running, needed = before, list[Step]()
    for step in planned:
        if _named(step.applications) != running:
            needed.append(step)
            running = _named(step.applications)
    return needed


def changed(now: Sequence[Document], wanted: Sequence[Document]) -> set[str]:
    """The names of applications that are not yet as they are wanted."""
    before = _named(now)
    return {name for name, document in _named(wanted).items() if before.get(name) != document}


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


def _change_to(title: str, after: Document, before: Document | None) -> Change:
    """To an application that is not there yet, from the one with the same deployment, if there is one."""
    if before is None:
        return Change(title, Effect.STARTS)
    effect = Effect.REPLACED if _has_room(title, after) else Effect.REPLACED_OLD_FIRST
    return Change(title, effect, tuple(_differing(restarts_with(before), restarts_with(after))))


def _changes_of(before: Document, after: Document) -> Sequence[Change]:
    restarts = tuple(_differing(restarts_with(before), restarts_with(after)))
    old, new = _overrides(before), _overrides(after)
    if restarts:
        return [
            Change(title, Effect.RESTARTS if _has_room(title, after) else Effect.RESTARTS_OLD_FIRST, restarts)
            for title in _titles(after)
        ]
    reconfigured = {name: tuple(_differing(old.get(name, {}), given)) for name, given in new.items()}
    return [Change(name, Effect.RECONFIGURED, settings) for name, settings in reconfigured.items() if settings]


def _has_room(title: str, document: Document) -> bool:
    """Whether new replicas of a deployment may start beside old ones."""
    return bool(_overrides(document).get(title, {}).get("max_surge_percent", 0))


def _by_title(some: Mapping[str, Document], others: Mapping[str, Document]) -> dict[str, Document]:
    """Deployment -> its application, of those that the others lack."""
    return {title: document for name, document in some.items() if name not in others for title in _titles(document)}


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
        return {_called(entry, at): entry for at, entry in enumerate(value)}
    return None


def _called(entry: Any, at: int) -> Any:
    """An entry of a list, by the name of what it is about, or by its place."""
    return entry.get("name", entry.get("deployment", at)) if isinstance(entry, Mapping) else at


def _asked_by(document: Document) -> set[str]:
    """The applications that an application of stages is told to ask (`StagesSettings.elsewhere`)."""
    told = [(given.get("user_config") or {}).get("elsewhere", {}) for given in _overrides(document).values()]
    return {address["application"] for stages in told for pools in stages.values() for address in pools}


def _titles(document: Document) -> Sequence[str]:
    return tuple(_overrides(document)) or (document["name"],)


def _overrides(document: Document) -> dict[str, Mapping[str, Any]]:
    return {given["name"]: given for given in document.get("deployments") or ()}


def _named(documents: Iterable[Document]) -> dict[str, Document]:
    return {document["name"]: document for document in documents}


def _all(named: Mapping[str, Document]) -> tuple[Document, ...]:
    return tuple(named.values())

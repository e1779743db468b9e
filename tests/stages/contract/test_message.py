"""Two versions side by side: what one says, the other reads as it was meant, or refuses and says why."""

import pickle
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from stages.contract import message as module
from stages.contract.errors import Overloaded, TriptychError, Unavailable, Unreadable, read_error
from stages.contract.item import Item
from stages.contract.message import (
    ALL,
    KNOWN,
    MESSAGES_VERSION,
    MessageEnum,
    MessageType,
    Unread,
    message,
    read_message,
    readable,
    readable_only,
)
from stages.host.packed_item import PackedItem, unpacked
from stages.llm.messages import Constraint, ConstraintKind, Generate, Sampling, TokenDelta

WORD = f"{__name__}:Word"
VERSIONS: dict[type[Any], MessageType] = {}


def version(cls: type[Any]) -> type[Any]:
    """One version of the same message."""
    VERSIONS[cls] = KNOWN.messages.pop(WORD)
    return cls


@version
@message
@dataclass(frozen=True, slots=True)
class Word:
    text: str
    size: int = 1


@version
@message(droppable=["hint"])
@dataclass(frozen=True, slots=True)
class WithMore:
    __qualname__ = "Word"
    text: str
    size: int = 1
    loud: bool = False
    hint: str = ""


@version
@message
@dataclass(frozen=True, slots=True)
class Reordered:
    __qualname__ = "Word"
    size: int
    text: str = "none"


@version
@message
@dataclass(frozen=True, slots=True)
class NeedsMore:
    __qualname__ = "Word"
    text: str
    language: str


@message
@dataclass(frozen=True, slots=True)
class Sentence:
    words: tuple[Any, ...] = ()
    first: Any = None
    by_name: Any = field(default_factory=dict)


@message(droppable=["news"])
@dataclass(frozen=True, slots=True)
class Letter:
    text: str
    news: tuple[Any, ...] = ()


class Colour(MessageEnum):
    RED = "red"


@pytest.fixture
def cross(monkeypatch: pytest.MonkeyPatch) -> "Cross":
    """What a value is for a process that has this version of `Word`."""

    def crossed(value: object, reader: type[Any]) -> Any:
        monkeypatch.setitem(KNOWN.messages, WORD, VERSIONS[reader])
        return pickle.loads(pickle.dumps(value))  # noqa: S301 - made here

    monkeypatch.setattr(KNOWN, "has_met_unread", False)
    return crossed


Cross = Callable[[object, type[Any]], Any]


def test_what_is_new_and_not_made_use_of_is_understood_by_an_earlier_version(cross: Cross) -> None:
    assert cross(WithMore("yes", 2), Word) == Word("yes", 2)


def test_what_an_earlier_version_does_not_say_has_its_default(cross: Cross) -> None:
    assert cross(Word("yes", 2), WithMore) == WithMore("yes", 2, loud=False, hint="")


@pytest.mark.parametrize(("sent", "reader", "read"), [(Word("yes", 2), Reordered, (2, "yes")), (Reordered(3), Word, None)])
def test_fields_are_known_by_their_names_and_not_by_their_order(cross: Cross, sent: Any, reader: type[Any], read: Any) -> None:
    found = cross(sent, reader)
    if read is None:  # nothing was said of the text, which is needed here
        assert found == Unread("Word lacks 'text', which is needed here (version 1 of messages)")
    else:
        assert (found.size, found.text) == read


def test_a_droppable_field_that_is_not_known_is_left_out(cross: Cross) -> None:
    assert cross(WithMore("yes", hint="softly"), Word) == Word("yes")


def test_any_other_field_that_is_not_known_is_refused_by_name(cross: Cross) -> None:
    found = cross(WithMore("yes", loud=True), Word)
    assert found == Unread("Word has no field 'loud' here (version 1 of messages)")
    with pytest.raises(
        Unreadable, match=r"two versions: Word has no field 'loud' here \(version 1 of messages\); try again"
    ) as refused:
        readable(found)
    assert isinstance(refused.value, Unavailable)
    assert refused.value.retry_after_s


def test_a_field_that_the_reader_needs_and_nobody_said_is_refused_by_name(cross: Cross) -> None:
    with pytest.raises(Unreadable, match="Word lacks 'language'"):
        readable(cross(Word("yes"), NeedsMore))


@pytest.mark.parametrize(
    "holding",
    [
        lambda word: Sentence((Word("a"), word)),
        lambda word: Sentence(first=word),
        lambda word: Sentence(by_name={"a": word}),
        lambda word: Sentence(first=Sentence(words=(word,))),
    ],
)
@pytest.mark.parametrize("has_met_unread", [False, True])
def test_what_holds_something_that_can_not_be_read_can_not_be_read(
    cross: Cross, holding: Callable[[object], object], has_met_unread: bool
) -> None:
    KNOWN.has_met_unread = has_met_unread
    found = cross(holding(WithMore("yes", loud=True)), Word)
    assert isinstance(found, Unread)
    assert "'loud'" in found.why
    assert isinstance(cross(holding(WithMore("yes")), Word), Sentence)  # nor does it hold against what can be


def test_a_droppable_field_with_something_that_can_not_be_read_has_its_default(cross: Cross) -> None:
    assert cross(Letter("dear", (WithMore("yes", loud=True),)), Word) == Letter("dear")


def test_of_events_that_arrive_together_none_is_read_where_one_can_not_be(cross: Cross) -> None:
    events = cross([Word("a"), WithMore("yes", loud=True)], Word)
    with pytest.raises(Unreadable):
        readable(events)
    assert readable_only(events) == [Word("a")]


@pytest.mark.parametrize("where", [f"{__name__}:Poem", "stages.llm.gone:Word", "nowhere:Word", "os:system"])
def test_a_message_that_is_not_known_here_is_refused_by_name(where: str, cross: Cross) -> None:
    found = read_message(MESSAGES_VERSION, where, {"command": "true"}, ())
    assert found == Unread(f"{where.partition(':')[2]} is unknown here (version 1 of messages)")


def test_a_member_of_an_enum_that_is_not_known_here_is_refused_by_name(cross: Cross) -> None:
    data = pickle.dumps(Sentence(first=Colour.RED))
    assert pickle.loads(data).first is Colour.RED  # noqa: S301 - made here
    found = pickle.loads(data.replace(b"\x8c\x03red", b"\x8c\x03tan"))  # noqa: S301 - made here
    assert found == Unread("Colour has no 'tan' here (version 1 of messages)")


def test_nothing_of_another_version_of_messages_is_read(cross: Cross, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MESSAGES_VERSION", MESSAGES_VERSION + 1)
    word, colour = pickle.dumps(Word("yes")), pickle.dumps(Colour.RED)
    monkeypatch.undo()
    why = f"is of version {MESSAGES_VERSION + 1} of messages, and {MESSAGES_VERSION} is read here"
    assert pickle.loads(word) == Unread(f"Word {why}")  # noqa: S301 - made here
    assert pickle.loads(colour) == Unread(f"Colour {why}")  # noqa: S301 - made here


def test_a_value_that_the_reader_allows_no_more_is_refused(cross: Cross) -> None:
    found = read_message(MESSAGES_VERSION, "stages.contract.cost:StepTimes", {"points": ()}, ())
    assert isinstance(found, Unread)
    assert "rising amounts" in found.why


def test_a_droppable_field_must_have_a_default() -> None:
    with pytest.raises(ValueError, match="text: no fields with a default"):
        message(droppable=["text"])(Letter)
    message(droppable=[ALL])(Letter)
    message(droppable=["news"])(Letter)


def test_a_deadline_travels_as_the_time_that_is_left_and_none_as_none() -> None:
    sent = time.time()
    data = pickle.dumps(Item("id", None, deadline=sent + 50))
    assert pickle.loads(data).deadline - sent == pytest.approx(50, abs=5)  # noqa: S301 - made here
    clock_elsewhere = {"id": "id", "payload": None, "deadline": 50.0}
    assert read_message(MESSAGES_VERSION, "stages.contract.item:Item", clock_elsewhere, ()).deadline - sent == pytest.approx(
        50, abs=5
    )
    assert b"deadline" not in pickle.dumps(Item("id", None))


def test_an_item_whose_payload_can_not_be_read_can_not_be_either_however_it_travels() -> None:
    payload = Generate((1,), Sampling(3, constraint=Constraint(ConstraintKind.CHOICE, '["a"]')))
    data = pickle.dumps(Item("id", payload)).replace(b"\x8c\x06choice", b"\x8c\x06poetry")
    with pytest.raises(Unreadable, match="ConstraintKind has no 'poetry' here"):
        readable(pickle.loads(data))  # noqa: S301 - made here
    with pytest.raises(Unreadable, match="ConstraintKind has no 'poetry' here"):
        unpacked(PackedItem(data, 1e9), [])


def test_many_messages_of_a_kind_name_it_and_its_fields_once() -> None:
    one, ten = (len(pickle.dumps([TokenDelta(f"{n}", 1, token_ids=(n,)) for n in range(num)], 5)) for num in (1, 10))
    assert ten - one < 9 * 40


class Later(Unavailable):
    """An error that earlier versions don't know."""


def test_an_error_of_a_class_that_is_not_known_here_is_the_nearest_that_is(monkeypatch: pytest.MonkeyPatch) -> None:
    data = pickle.dumps(Later("away", retry_after_s=2.0, detail="why"))
    assert type(pickle.loads(data)) is Later  # noqa: S301 - made here
    monkeypatch.delitem(globals(), "Later")
    found = pickle.loads(data)  # noqa: S301 - made here
    assert (type(found), found.message, found.retry_after_s, found.detail) == (Unavailable, "away", 2.0, "why")


def test_what_later_versions_tell_of_an_error_beside_is_left_out() -> None:
    kinds = ("gone.module:Gone", "stages.contract.errors:Missing", "os:system", "stages.contract.errors:Overloaded")
    found = read_error(kinds, {"message": "full", "hint": "new"})
    assert (type(found), str(found)) == (Overloaded, "full")
    assert type(read_error(("gone:Gone",), {})) is TriptychError

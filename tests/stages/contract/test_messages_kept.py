"""What earlier code has said is read by this one as it was meant: pickles of it are in messages_VERSION.json (`kept_messages.py`)."""

import base64
import pickle
from collections.abc import Mapping
from typing import Any

import pytest

from stages.contract.message import KNOWN
from tests.stages.contract.examples import described, least, whole
from tests.stages.contract.kept_messages import kept, messages, written

FORMS = [(where, form) for where in kept() for form in ("least", "whole")]
HOW = "python -m tests.stages.contract.kept_messages"


def agrees(meant: object, read: object) -> bool:
    """Of a message, in all fields that it still has: what may not be left out, and is not known here, would not have been read."""
    if isinstance(meant, Mapping) and isinstance(read, Mapping):
        return all(agrees(value, read[name]) for name, value in meant.items() if name in read)
    if isinstance(meant, list) and isinstance(read, list):
        return len(meant) == len(read) and all(map(agrees, meant, read))
    return meant == read


@pytest.mark.parametrize(("where", "form"), FORMS)
def test_what_was_written_down_is_read_as_it_was_meant(where: str, form: str) -> None:
    entry: Mapping[str, Any] = kept()[where][form]
    read = pickle.loads(base64.b64decode(entry["pickle"]))  # noqa: S301 - checked in
    assert agrees(entry["means"], described(read)), "an intended break needs a new MESSAGES_VERSION, and then " + HOW


def test_every_message_is_written_down() -> None:
    assert set(messages()) <= set(kept()), HOW


def test_a_default_that_became_another_is_noticed() -> None:
    meant = kept()["stages.llm.messages:Sampling"]["least"]["means"]
    assert not agrees(meant | {"temperature": "0.5"}, meant)
    assert agrees(meant, meant | {"new": "1"})


@pytest.mark.parametrize("where", messages())
def test_a_message_is_after_its_way_what_it_was_and_is_written_the_same_tomorrow(where: str) -> None:
    message = KNOWN.messages[where]
    for value in (least(message), whole(message)):
        assert described(pickle.loads(pickle.dumps(value))) == described(value)  # noqa: S301 - made here
    assert written(message) == written(message)

"""Of every kind of tokenizer: what masks let through is what is shown, and it may end only where it is complete."""

import json
import random
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

from stages.contract.errors import InvalidRequest, StageFailed
from stages.llm.answers.detokenizer import TextStream
from stages.llm.messages import Constraint, ConstraintKind
from stages.llm.structure.row_structure import RowStructure, Workers
from stages.llm.structure.structures import Structures
from stages.llm.structure.vocabulary import Mask, Vocabulary
from tests.stages.llm.structure.tokenizers_of_all_kinds import (
    END,
    KINDS,
    TOOL,
    byte_level,
    metaspace,
    token_of,
    with_tool_mark,
    word_pieces,
)

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 6},
        "age": {"type": "integer", "minimum": 0, "maximum": 99},
        "tags": {"type": "array", "items": {"enum": ["red", "green"]}, "maxItems": 3},
    },
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
}


def vocabulary(tokenizer: Tokenizer) -> Vocabulary:
    return Vocabulary(tokenizer, [token_of(tokenizer, END)], tokenizer.get_vocab_size())


def allowed(mask: Mask) -> list[int]:
    return [int(token) for token in np.flatnonzero(np.unpackbits(mask.view(np.uint8), bitorder="little"))]


def said(tokenizer: Tokenizer, structures: Structures, constraint: Constraint, seed: int, most: int = 400) -> tuple[str, bool]:
    """Tokens at random, as far as they may come: the text that is shown, and whether it came to its end."""
    draw, structure, stream = random.Random(seed), RowStructure(structures.start(constraint, "")), TextStream(tokenizer, ())
    text, end = "", token_of(tokenizer, END)
    for _ in range(most):
        mask = structure.settled()
        assert structure.failure is None
        assert mask is not None
        token = draw.choice(allowed(mask))
        RowStructure.advance([(structure, token)])
        if token == end:
            return text + stream.end().text, True
        text += stream.push(token).text
    return text, False


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_at_random_make_json_of_the_schema(kind: str) -> None:
    tokenizer = KINDS[kind]()
    structures = Structures(vocabulary(tokenizer))
    texts = [
        said(tokenizer, structures, Constraint(ConstraintKind.JSON_SCHEMA, json.dumps(SCHEMA)), seed) for seed in range(30)
    ]
    ended = [json.loads(text) for text, is_whole in texts if is_whole]
    assert len(ended) > 20
    assert all(list(found) == ["name", "age", "tags"] for found in ended)
    assert all(len(found["name"]) <= 6 and 0 <= found["age"] <= 99 and len(found["tags"]) <= 3 for found in ended)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("constraint", "texts"),
    [
        (Constraint(ConstraintKind.CHOICE, '["red", "it is green", "10,000"]'), {"red", "it is green", "10,000"}),
        (Constraint(ConstraintKind.REGEX, "(a|b)?1"), {"1", "a1", "b1"}),
        (Constraint(ConstraintKind.GRAMMAR, 'start: "a" end\nend: "1" | "0"'), {"a1", "a0"}),
    ],
    ids=["choices", "a pattern", "a grammar"],
)
def test_tokens_at_random_say_what_may_be_said_and_in_time_all_of_it(
    kind: str, constraint: Constraint, texts: set[str]
) -> None:
    tokenizer = KINDS[kind]()
    structures = Structures(vocabulary(tokenizer))
    assert {said(tokenizer, structures, constraint, seed) for seed in range(60)} == {(text, True) for text in texts}


def test_the_natural_spelling_is_among_what_may_come() -> None:
    """Where a first space is dropped, words are spelled with one."""
    tokenizer = KINDS["byte fallback"]()
    structure = RowStructure(Structures(vocabulary(tokenizer)).start(Constraint(ConstraintKind.CHOICE, '["red"]'), ""))
    mask = structure.settled()
    assert mask is not None
    assert set(tokenizer.encode("red", add_special_tokens=False).ids[:1]) <= set(allowed(mask))


def test_special_tokens_are_no_text_and_others_that_were_added_are() -> None:
    tokenizer = with_tool_mark(byte_level())
    structures = Structures(vocabulary(tokenizer))
    first = structures.start(Constraint(ConstraintKind.CHOICE, json.dumps([TOOL, "<s>"])), "").mask
    assert token_of(tokenizer, TOOL) in allowed(first)
    assert token_of(tokenizer, "<s>") not in allowed(first)


def test_a_special_token_comes_where_a_grammar_names_its_number() -> None:
    tokenizer = byte_level()
    structures, mark = Structures(vocabulary(tokenizer)), token_of(tokenizer, "<s>")
    row = RowStructure(structures.start(Constraint(ConstraintKind.GRAMMAR, f'start: <[{mark}]> "a"'), ""))
    for token in (mark, token_of(tokenizer, "a"), token_of(tokenizer, END)):
        mask = row.settled()
        assert mask is not None
        assert allowed(mask) == [token]
        RowStructure.advance([(row, token)])


def test_columns_that_no_token_has_are_never_chosen() -> None:
    tokenizer = byte_level()
    wide = Vocabulary(tokenizer, [token_of(tokenizer, END)], tokenizer.get_vocab_size() + 77)
    start = Structures(wide).start(Constraint(ConstraintKind.REGEX, "(?s:.)*"), "")
    assert max(allowed(start.mask)) < tokenizer.get_vocab_size()


@pytest.mark.parametrize("columns", [31, 32, 33, 63, 64])
def test_a_vocabulary_may_end_anywhere_in_a_word(columns: int) -> None:
    tokenizer = byte_level()
    cut = Vocabulary(tokenizer, [], columns)
    mask = Structures(cut).start(Constraint(ConstraintKind.REGEX, "(?s:.)+"), "").mask
    assert max(allowed(mask)) < columns


def test_a_model_without_end_tokens_is_complete_where_nothing_may_follow() -> None:
    tokenizer = byte_level()
    structures = Structures(Vocabulary(tokenizer, [], tokenizer.get_vocab_size()))
    structure = RowStructure(structures.start(Constraint(ConstraintKind.CHOICE, '["a"]'), ""))
    assert not structure.is_complete
    RowStructure.advance([(structure, token_of(tokenizer, "a"))])
    assert structure.settled() is None
    assert structure.is_complete
    assert structure.failure is None


def test_a_tokenizer_whose_tokens_have_no_text_of_their_own_is_refused() -> None:
    structures = Structures(vocabulary(word_pieces()))
    with pytest.raises(InvalidRequest, match="tokens have no text of their own") as refused:
        structures.start(Constraint(ConstraintKind.JSON_OBJECT), "")
    assert refused.value.param == "constraint"


def test_what_no_token_can_say_is_told_as_soon_as_that_is_known() -> None:
    tokenizer = metaspace()
    structures = Structures(vocabulary(tokenizer))
    with pytest.raises(InvalidRequest, match="no token of this model") as refused:
        structures.start(Constraint(ConstraintKind.GRAMMAR, 'start: "ñ"', after=(5,)), "")
    assert refused.value.param == "constraint"
    row = RowStructure(structures.start(Constraint(ConstraintKind.CHOICE, '["añ"]'), ""))
    assert row.settled() is not None
    RowStructure.advance([(row, token_of(tokenizer, "a"))])
    assert row.settled() is None
    assert isinstance(row.failure, InvalidRequest)


def test_what_is_compiled_is_kept_for_the_same_salt_only() -> None:
    structures, constraint = Structures(vocabulary(byte_level())), Constraint(ConstraintKind.JSON_OBJECT)
    first = structures.start(constraint, "ada")
    assert structures.start(constraint, "ada") is first
    assert structures.start(constraint, "bob") is not first


class Noted(ThreadPoolExecutor):
    """Remembers how much each piece of work holds."""

    def __init__(self) -> None:
        super().__init__(2)
        self.sizes: list[int] = []

    def submit(self, function: Any, taken: Any) -> Any:  # type: ignore[override]
        self.sizes.append(len(taken))
        return super().submit(function, taken)


@pytest.mark.parametrize(
    ("num_rows", "num_threads", "sizes"), [(5, 4, [5]), (16, 1, [16]), (16, 4, [8, 8]), (50, 3, [17, 17, 16])]
)
def test_rows_of_a_step_are_a_few_pieces_of_work(num_rows: int, num_threads: int, sizes: list[int]) -> None:
    tokenizer = byte_level()
    noted = Noted()
    start = Structures(vocabulary(tokenizer)).start(Constraint(ConstraintKind.JSON_OBJECT), "")
    start = replace(start, workers=Workers(noted, num_threads))
    rows = [RowStructure(start) for _ in range(num_rows)]
    RowStructure.advance([(row, token_of(tokenizer, "{")) for row in rows])
    assert noted.sizes == sizes
    masks = [row.settled() for row in rows]
    assert masks[0] is not None
    assert not np.array_equal(masks[0], start.mask)
    assert all(mask is not None and np.array_equal(mask, masks[0]) for mask in masks)


def test_a_token_that_ends_the_answer_makes_no_work() -> None:
    tokenizer = byte_level()
    noted = Noted()
    start = Structures(vocabulary(tokenizer)).start(Constraint(ConstraintKind.REGEX, "a?"), "")
    row = RowStructure(replace(start, workers=Workers(noted, 1)))
    RowStructure.advance([(row, token_of(tokenizer, END))])
    assert noted.sizes == []


class Panic(BaseException):
    """As Rust's panics come to Python."""


class Broken:
    """In place of a matcher."""

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def consume_token(self, token: int) -> None:
        raise self._error


@pytest.mark.parametrize("error", [RuntimeError("broken"), Panic("broken")], ids=["an exception", "a panic"])
def test_a_row_that_fails_is_the_stages_fault_and_its_neighbours_go_on(error: BaseException) -> None:
    tokenizer = byte_level()
    start = Structures(vocabulary(tokenizer)).start(Constraint(ConstraintKind.JSON_OBJECT), "")
    with ThreadPoolExecutor(1) as executor:
        rows = [RowStructure(replace(start, workers=Workers(executor, 1))) for _ in range(3)]
        rows[1]._matcher = Broken(error)  # type: ignore[assignment]
        RowStructure.advance([(row, token_of(tokenizer, "{")) for row in rows])
        masks = [row.settled() for row in rows]
        RowStructure.advance([(row, token_of(tokenizer, "}")) for row in rows])
        after = [row.settled() for row in rows]
    assert [mask is None for mask in masks] == [mask is None for mask in after] == [False, True, False]
    assert [row.failure is None for row in rows] == [True, False, True]
    assert isinstance(rows[1].failure, StageFailed)
    assert "broken" in str(rows[1].failure.detail)


def test_before_a_mark_anything_may_be_said_and_behind_it_only_json() -> None:
    tokenizer = with_tool_mark(byte_level())
    mark, end = token_of(tokenizer, TOOL), token_of(tokenizer, END)
    structures = Structures(vocabulary(tokenizer))
    row = RowStructure(structures.start(Constraint(ConstraintKind.JSON_OBJECT, after=(mark,)), ""))
    assert row.settled() is None
    RowStructure.advance([(row, 7)])
    assert row.settled() is None
    RowStructure.advance([(row, mark)])
    mask = row.settled()
    assert mask is not None
    assert {tokenizer.decode([token]).lstrip("\n")[:1] for token in allowed(mask)} <= {"", "{"}
    assert end not in allowed(mask)


def test_before_a_mark_that_must_come_an_answer_may_not_end() -> None:
    tokenizer = with_tool_mark(byte_level())
    mark, end = token_of(tokenizer, TOOL), token_of(tokenizer, END)
    constraint = Constraint(ConstraintKind.JSON_OBJECT, after=(mark,), may_end_before=False)
    mask = RowStructure(Structures(vocabulary(tokenizer)).start(constraint, "")).settled()
    assert mask is not None
    assert set(range(tokenizer.get_vocab_size())) - set(allowed(mask)) == {end}

"""Answers that are held to something, by a model of random weights: whatever else is asked, and whatever happens to them meanwhile."""

import json
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.contract.errors import InvalidRequest
from stages.llm.llm import Llm
from stages.llm.messages import Constraint, ConstraintKind, Generate, Sampling
from stages.llm.settings import LlmSettings
from tests.fuzz.effort import effort
from tests.stages.llm.driving import Answer, drive
from tests.stages.llm.library.oracle import load
from tests.stages.llm.structure.schemas_at_random import schemas

pytestmark = pytest.mark.models

PROMPT = tuple(range(10, 40))
END = 2  # <|im_end|>
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 6},
        "age": {"type": "integer", "minimum": 0, "maximum": 99},
        "tags": {"type": "array", "items": {"enum": ["red", "green"]}, "maxItems": 3},
    },
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def llm(folder: Path) -> Llm:
    return fresh(folder)


def fresh(folder: Path) -> Llm:
    return load(folder, LlmSettings(num_slots=6, max_context_tokens=320, prefill_chunk_tokens=16))


def held(schema: Any = PERSON, *, prompt: tuple[int, ...] = PROMPT, max_tokens: int = 250, **settings: Any) -> Generate:
    constraint = schema if isinstance(schema, Constraint) else Constraint(ConstraintKind.JSON_SCHEMA, json.dumps(schema))
    sampling = Sampling(max_tokens=max_tokens, constraint=constraint, **({"seed": 1} | settings))
    return Generate(prompt, sampling)


def free(**settings: Any) -> Generate:
    return Generate(PROMPT[3:], Sampling(max_tokens=40, **({"seed": 5} | settings)))


def is_of(schema: Any, answer: Answer) -> bool:
    """Whether it came to its end; it is JSON of the schema then, or this fails."""
    assert answer.error is None
    assert answer.end is not None
    if answer.end.reason != "stop":
        return False
    jsonschema_rs.validator_for(schema).validate(json.loads(answer.text))
    return True


@effort()
@given(schema=schemas(), seed=st.integers(0, 2**32), temperature=st.sampled_from([0.0, 0.7, 2.0]))
def test_whatever_the_schema_what_comes_to_its_end_is_of_it(llm: Llm, schema: Any, seed: int, temperature: float) -> None:
    work = [held(schema, seed=seed + more, temperature=temperature) for more in range(3)]
    for answer in drive(llm, [(number, one) for number, one in enumerate(work)]):
        is_of(schema, answer)


def test_most_answers_of_bounded_schemas_come_to_their_end(llm: Llm) -> None:
    answers = drive(llm, [(0, held(seed=seed)) for seed in range(30)])
    assert sum(is_of(PERSON, answer) for answer in answers) > 20
    assert len({answer.text for answer in answers}) > 20


SETTINGS: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0.0},
    "hot": {"temperature": 2.0},
    "the likeliest token": {"top_k": 1},
    "a tiny share": {"top_p": 1e-6},
    "the likely ones": {"min_p": 0.9},
    "penalties": {"frequency_penalty": 2.0, "presence_penalty": 2.0, "repetition_penalty": 50.0},
    "a bias against all brackets": {"logit_bias": dict.fromkeys(range(7, 300), -100.0)},
    "a bias towards the end": {"logit_bias": {END: 100.0}},
    "log probabilities": {"logprobs": 5},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_it_holds_whatever_else_is_asked(llm: Llm, name: str) -> None:
    answers = drive(llm, [(0, held(seed=seed, **SETTINGS[name])) for seed in range(4)])
    assert [is_of(PERSON, answer) for answer in answers].count(True) >= (0 if name == "greedy" else 1)
    assert all(answer.text.startswith("{") for answer in answers)


def test_a_bias_towards_the_end_ends_it_where_it_may_end_and_not_before(llm: Llm) -> None:
    (answer,) = drive(llm, [(0, held(Constraint(ConstraintKind.REGEX, "[ab]{3,9}"), logit_bias={END: 100.0}))])
    assert (len(answer.text), set(answer.text) <= {"a", "b"}) == (3, True)


def test_neighbours_change_nothing_and_are_not_changed(folder: Path) -> None:
    alone = [drive(fresh(folder), [(0, work)])[0] for work in (held(), free(), held(seed=9))]
    together = drive(fresh(folder), [(0, held()), (1, free()), (3, held(seed=9))])
    assert [answer.tokens for answer in together] == [answer.tokens for answer in alone]


def test_an_answer_that_makes_way_goes_on_where_it_was(folder: Path) -> None:
    (whole,) = drive(fresh(folder), [(0, held())])
    (cut,) = drive(fresh(folder), [(0, held())], preempt=lambda step, index: step in (4, 9, 10, 17))
    assert len(whole.tokens) > 10
    assert cut.tokens == whole.tokens
    assert is_of(PERSON, cut)


def test_a_known_beginning_is_reused_and_the_same_is_said(folder: Path) -> None:
    llm = fresh(folder)
    first, second = (drive(llm, [(0, held())])[0] for _ in range(2))
    assert second.tokens == first.tokens
    assert second.end is not None
    assert second.end.cached_tokens == len(PROMPT) - 1


def test_log_probabilities_are_the_models_own(folder: Path) -> None:
    """Of all tokens, also of those that may not come."""
    (answer,) = drive(fresh(folder), [(0, held(logprobs=20))])
    (other,) = drive(fresh(folder), [(0, Generate(PROMPT, Sampling(max_tokens=1, logprobs=20, seed=3)))])
    assert len(answer.logprobs) >= len(answer.tokens) - 1
    assert answer.logprobs[0].top == other.logprobs[0].top
    assert answer.logprobs[0].text == "{"


def test_a_stop_string_and_a_bound_end_it_before_it_is_whole(llm: Llm) -> None:
    (stopped,) = drive(llm, [(0, held(stop=('"age"',)))])
    assert stopped.end is not None
    assert stopped.end.reason == "stop"
    assert '"age"' not in stopped.text
    (bounded,) = drive(llm, [(0, held(max_tokens=3))])
    assert bounded.end is not None
    assert (bounded.end.reason, bounded.end.completion_tokens) == ("length", 3)


def test_free_answers_behind_a_mark_are_held_from_there_on(llm: Llm) -> None:
    """The first token of one that is free is taken as the mark."""
    (before,) = drive(llm, [(0, Generate(PROMPT, Sampling(max_tokens=4, seed=1)))])
    constraint = Constraint(ConstraintKind.JSON_SCHEMA, json.dumps(PERSON), after=(before.tokens[1],))
    answers = drive(llm, [(0, held(constraint, seed=1)), (0, held(seed=1))])
    assert answers[0].tokens[:2] == before.tokens[:2]
    assert answers[0].end is not None
    assert answers[0].end.reason == "stop"
    shown = answers[0].text[answers[0].text.index("{") :]
    jsonschema_rs.validator_for(PERSON).validate(json.loads(shown))


def test_what_turns_out_to_lead_nowhere_fails_alone(llm: Llm) -> None:
    nowhere = Constraint(ConstraintKind.GRAMMAR, 'start: "a" NOTHING\nNOTHING: /b/ & /c/')
    failed, fine = drive(llm, [(0, held(nowhere)), (0, held())])
    assert isinstance(failed.error, InvalidRequest)
    assert failed.error.param == "constraint"
    assert is_of(PERSON, fine)


def test_what_cant_be_enforced_is_refused_when_it_is_prepared(llm: Llm) -> None:
    with pytest.raises(InvalidRequest, match="uniqueItems"):
        drive(llm, [(0, held({"type": "array", "uniqueItems": True}))])

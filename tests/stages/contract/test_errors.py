"""Errors belong to one request each, also where several have the same."""

import pickle

import pytest

from stages.contract.errors import InvalidRequest, QueueFull, StageFailed, TooLarge, TriptychError


@pytest.mark.parametrize("error", [TooLarge("too big", param="image"), QueueFull("full", retry_after_s=3.0)])
def test_a_copy_for_a_request_is_the_same_error_and_another_object(error: TriptychError) -> None:
    own = error.for_request()
    assert own is not error
    assert (type(own), str(own), own.param, own.retry_after_s) == (type(error), str(error), error.param, error.retry_after_s)


def test_a_copy_names_the_requests_own_field_and_takes_the_cause_but_no_traceback_along() -> None:
    shared = InvalidRequest("bad", param="input")
    try:
        raise shared from ValueError("worse")
    except InvalidRequest as raised:
        own = raised.for_request("input[3]")
    assert (own.param, shared.param) == ("input[3]", "input")
    assert isinstance(own.__cause__, ValueError)
    assert own.__traceback__ is None


@pytest.mark.parametrize(
    ("message", "told"),
    [
        ("steps 9 is outside 1..5 steps", "num_inference_steps 9 is outside 1..5 steps"),
        ("steps: 9 are too many", "num_inference_steps: 9 are too many"),
        ("stepsize is another word", "stepsize is another word"),
        ("9 steps are too many", "9 steps are too many"),
    ],
)
def test_a_message_that_begins_with_the_field_begins_with_the_requests_own(message: str, told: str) -> None:
    shared = InvalidRequest(message, param="steps")
    own = shared.for_request("num_inference_steps")
    assert (own.message, str(own), own.param) == (told, told, "num_inference_steps")
    assert (shared.message, str(shared)) == (message, message)


def test_an_error_that_crossed_processes_can_be_copied_for_a_request() -> None:
    crossed = pickle.loads(pickle.dumps(InvalidRequest("bad", param="input")))  # noqa: S301
    assert crossed.for_request("prompt").param == "prompt"


def test_what_only_a_log_may_tell_crosses_processes_too_and_is_in_no_message() -> None:
    failed = StageFailed("it failed", detail="/a/path")
    for error in (failed, failed.for_request(), pickle.loads(pickle.dumps(failed))):  # noqa: S301
        assert (error.message, error.detail, str(error)) == ("it failed", "/a/path", "it failed [/a/path]")

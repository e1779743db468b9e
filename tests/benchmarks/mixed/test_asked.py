"""What a client notes of its requests."""

import pytest

from benchmarks.mixed.asked import MAX_TRIES, Asked, again_after_s, retry_after_s
from benchmarks.mixed.client import told_by
from benchmarks.mixed.requests import Kind, Request, Size, mixed, request

SIZE = Size(tokens=4, steps=2)
STREAM = Request(Kind.GREEDY, 1, "/", {"stream": True})


def asked(sent_at: float, heard: list[float], ended_at: float | None = None) -> Asked:
    return Asked(STREAM, sent_at, heard, ended_at=ended_at)


def test_a_pause_may_be_before_the_first_word_between_words_or_before_the_end() -> None:
    assert asked(0.0, [3.0, 4.0], 4.5).longest_pause_s() == 3.0
    assert asked(0.0, [1.0, 5.0], 5.5).longest_pause_s() == 4.0
    assert asked(0.0, [1.0, 2.0], 9.0).longest_pause_s() == 7.0


def test_of_a_pause_that_began_before_only_what_comes_after_counts() -> None:
    one = asked(0.0, [10.0, 11.0], 11.5)
    assert one.longest_pause_s(since=7.0) == 3.0
    assert one.longest_pause_s(since=12.0) == 0.0


def test_what_has_not_been_heard_of_has_no_pause_yet() -> None:
    assert asked(0.0, []).longest_pause_s() == 0.0


def test_a_request_runs_from_its_sending_to_its_end() -> None:
    one = asked(1.0, [], 2.0)
    assert [one.is_running(at) for at in (0.9, 1.0, 1.9, 2.0)] == [False, True, True, False]
    assert asked(1.0, []).is_running(100.0)


@pytest.mark.parametrize(
    ("status", "expected"), [(0, 0.5), (408, 0.5), (429, 0.5), (500, 0.5), (503, 0.5), (400, None), (404, None)]
)
def test_asked_again_is_what_the_sdk_asks_again(status: int, expected: float | None) -> None:
    assert again_after_s(status, {}, tries=1) == expected


def test_the_server_says_when_and_whether_to_ask_again() -> None:
    assert again_after_s(503, {"retry-after": "4"}, tries=1) == 4.0
    assert again_after_s(500, {"x-should-retry": "false"}, tries=1) is None
    assert again_after_s(503, {}, tries=2) == 1.0
    assert again_after_s(503, {}, tries=MAX_TRIES) is None


def test_a_retry_after_that_is_a_date_is_none() -> None:
    assert retry_after_s({"retry-after": "Wed, 21 Oct 2026 07:28:00 GMT"}) is None
    assert retry_after_s({}) is None
    assert retry_after_s({"retry-after": "1.5"}) == 1.5


def test_what_events_tell_is_a_text_or_a_finished_image() -> None:
    assert told_by({"choices": [{"delta": {"content": "a"}}, {"delta": {}}, {"delta": {"content": None}}]}) == "a"
    assert told_by({"type": "triptych.progress", "step": 1}) == ""
    assert told_by({"type": "image_generation.partial_image", "b64_json": "half"}) == ""
    assert told_by({"type": "image_generation.completed", "b64_json": "whole"}) == "whole"


@pytest.mark.parametrize("kind", Kind)
def test_the_same_number_gives_the_same_request_and_another_one_another(kind: Kind) -> None:
    assert request(kind, 7, SIZE) == request(kind, 7, SIZE)
    assert request(kind, 7, SIZE).body != request(kind, 8, SIZE).body


def test_greedy_streams_draw_nothing_and_seeded_ones_have_a_seed() -> None:
    assert request(Kind.GREEDY, 7, SIZE).body["temperature"] == 0
    assert request(Kind.SEEDED, 7, SIZE).body["seed"] == 7
    assert all(request(kind, 7, SIZE).is_streamed for kind in Kind if kind is not Kind.EMBEDDING)


def test_a_mix_has_its_kinds_by_their_shares() -> None:
    found = mixed(400, {Kind.GREEDY: 3, Kind.EMBEDDING: 1}, SIZE, seed=1, first=5)
    assert 270 < sum(one.kind is Kind.GREEDY for one in found) < 330
    assert {one.kind for one in found} == {Kind.GREEDY, Kind.EMBEDDING}
    assert [one.number for one in found] == list(range(5, 405))

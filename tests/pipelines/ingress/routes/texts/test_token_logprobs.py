"""Where tokens begin in their text, and how what is told of them is written."""

import json

from hypothesis import given
from hypothesis import strategies as st

from pipelines.ingress.routes.texts.token_logprobs import FirstToken, Offsets, TextLogprobs
from stages.llm.messages import TokenLogprob


def entry(data: bytes, *top: tuple[str, float], logprob: float = -1.0) -> TokenLogprob:
    others = tuple(TokenLogprob(0, text, text.encode(), value) for text, value in top)
    return TokenLogprob(1, data.decode(errors="replace"), data, logprob, others)


def told(entries: list[TokenLogprob], text: str) -> TextLogprobs:
    found = TextLogprobs.none()
    found.add(entries, Offsets(), text)
    return found


@given(st.text(min_size=1), st.data())
def test_a_token_begins_with_the_character_that_its_first_byte_is_of(text: str, data: st.DataObject) -> None:
    whole = text.encode()
    cuts = sorted(data.draw(st.sets(st.integers(1, len(whole) - 1))) if len(whole) > 1 else [])
    offsets = Offsets()
    for begin, end in zip([0, *cuts], [*cuts, len(whole)], strict=True):
        before = whole[:begin].decode(errors="ignore")
        assert offsets.of(whole[begin:end], text) == len(before)


def test_a_words_blank_that_is_dropped_at_the_beginning_counts_for_nothing() -> None:
    assert told([entry(b" the"), entry(b" cat")], "the cat").text_offset == [0, 3]
    assert told([entry(b" the"), entry(b" cat")], " the cat").text_offset == [0, 4]


def test_the_first_token_has_nothing_but_its_text_and_a_mark_takes_no_place() -> None:
    for is_mark, after in ((False, 3), (True, 0)):
        found, offsets = TextLogprobs.none(), Offsets()
        found.add_first(FirstToken("<s>", is_mark), offsets, "<s>a")
        found.add([entry(b"a")], offsets, "<s>a")
        found.add_end(entry(b"</s>"), offsets)
        assert found.tokens == ["<s>", "a", "</s>"]
        assert found.token_logprobs == [None, -1.0, -1.0]
        assert found.top_logprobs[0] is None
        assert found.text_offset == [0, after, after + 1]


def test_of_tokens_with_the_same_text_the_likeliest_is_told() -> None:
    found = told([entry(b"x", ("a", -0.5), ("a", -2.0), logprob=-3.0)], "x").top_logprobs
    assert found == [{"a": -0.5, "x": -3.0}]
    assert told([entry(b"a", ("a", -0.5), logprob=-2.0)], "a").top_logprobs == [{"a": -0.5}]


def test_what_is_next_to_impossible_is_a_number() -> None:
    found = told([entry(b"x", ("y", float("-inf")), logprob=float("-inf"))], "x")
    assert (found.token_logprobs, found.top_logprobs) == ([-9999.0], [{"y": -9999.0, "x": -9999.0}])


@given(st.integers(0, 1000))
def test_it_is_written_in_pieces_that_are_one_object(count: int) -> None:
    found = told([entry(b"a", ("b", -0.5))] * count, "a" * count)
    pieces = list(found.to_json())
    assert json.loads(b"".join(pieces)) == {
        "tokens": ["a"] * count,
        "token_logprobs": [-1.0] * count,
        "top_logprobs": [{"b": -0.5, "a": -1.0}] * count,
        "text_offset": list(range(count)),
    }
    assert max(map(len, pieces)) < 20_000

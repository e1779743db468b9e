"""No text of a user forms a control token, and harmless text passes unchanged."""

from hypothesis import given
from hypothesis import strategies as st

from pipelines.prompts.control_tokens import ControlTokens, unused_mark

TOKENS = ["<s>", "</s>", "<|im_end|>", "<|im|>", "<<s>>", "[INST]"]
TEXT = st.lists(st.sampled_from([*TOKENS, "<", "|", ">", "<|im", "_end|>", "s", "/", "a b", "\n"]), max_size=12).map("".join)
MARK = "\U000f0000"


@given(TEXT)
def test_no_control_token_is_left_between_the_marks(text: str) -> None:
    broken = ControlTokens(TOKENS).broken(text, MARK)
    assert broken.replace(MARK, "") == text
    assert not any(token in piece for piece in broken.split(MARK) for token in TOKENS)


@given(st.lists(TEXT, max_size=5))
def test_no_control_token_forms_across_texts(texts: list[str]) -> None:
    broken = ControlTokens(TOKENS).broken_apart(texts, MARK)
    assert [text.replace(MARK, "") for text in broken] == texts
    assert not any(token in piece for piece in "".join(broken).split(MARK) for token in TOKENS)


def test_harmless_text_is_unchanged() -> None:
    assert ControlTokens(TOKENS).broken("a < b and <|im| is no token", MARK) == "a < b and <|im| is no token"


def test_the_mark_occurs_in_no_text() -> None:
    assert unused_mark(["a", MARK + "b"]) == "\U000f0001"
    assert unused_mark([]) == MARK

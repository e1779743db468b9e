"""What each token of a model's vocabulary says, as the library that makes masks wants it: a tree of all tokens' bytes.

Decides which tokens may stand in an answer that is held to something: those with a text, which is the text that `detokenizer.py` shows.
Special tokens have none, but those that end an answer, which come where it may end. A tokenizer whose tokens have no bytes of their
own (their text depends on their neighbours) can't be held to anything.
"""

from collections.abc import Collection, Sequence
from typing import Any, TypeAlias

import numpy as np
from llguidance import LLMatcher, LLTokenizer
from numpy.typing import NDArray
from tokenizers import Tokenizer

from stages.llm.answers.detokenizer import TokenBytes

Mask: TypeAlias = NDArray[np.int32]
"""[words of 32 bits]: a bit for each token of the vocabulary, from the lowest, and nothing behind them."""

_PROBE = '{"a b": [1, -2.5e3, true, "It\'s a  word, x.y"]}'


class Vocabulary:
    """`num_tokens`: columns of the model's logits. Takes about 3 us a token, with the interpreter's lock."""

    def __init__(self, backend: Tokenizer, end_tokens: Collection[int], num_tokens: int) -> None:
        known = TokenBytes(backend)
        silent = {token for token, added in backend.get_added_tokens_decoder().items() if added.special} | set(end_tokens)
        self.end_tokens = frozenset(token for token in end_tokens if token < num_tokens)
        self.drops_space, self.is_sound = _as_shown(backend, known, silent)
        self._num_tokens = num_tokens
        if self.drops_space and (byte := backend.token_to_id("<0x20>")) is not None:
            silent.add(byte)  # it is shown where the same as a word is not, and never needed
        texts = [b"" if token in silent else known.of(token) for token in range(num_tokens)]
        self.tokenizer = _tree(texts, self.end_tokens)

    def mask(self, matcher: LLMatcher) -> Mask:
        """Of the tokens that may come next."""
        mask = np.zeros(self._num_tokens // 32 + 1, np.int32)
        matcher.unsafe_compute_mask_ptr(mask.ctypes.data, mask.nbytes)
        mask[-1] &= (1 << self._num_tokens % 32) - 1
        return mask

    def mask_without_ends(self) -> Mask:
        """Of all tokens but those that end an answer."""
        bits = np.ones(32 * (self._num_tokens // 32 + 1), np.uint8)
        bits[[*self.end_tokens]] = bits[self._num_tokens :] = 0
        return np.packbits(bits, bitorder="little").view(np.int32)


class _Tokens:
    """As `llguidance.LLTokenizer` takes it. A call would tokenize what a grammar forces, which ours leave to the model."""

    is_tokenizer_wrapper = True
    bos_token_id = None
    special_token_ids: Sequence[int] = ()

    def __init__(self, tokens: Sequence[bytes], end: int) -> None:
        self.tokens, self.eos_token_id = tokens, end

    def __call__(self, text: Any) -> Sequence[int]:
        raise NotImplementedError("grammars are made with no_forcing")


def _tree(texts: Sequence[bytes], ends: Collection[int]) -> LLTokenizer:
    """With one token more than the model has, for where no token ends an answer."""
    last = [*sorted(ends)] or [len(texts)]
    return LLTokenizer(_Tokens([*texts, b""], last[0]), eos_token=last)  # type: ignore[arg-type]


def _as_shown(backend: Tokenizer, known: TokenBytes, silent: Collection[int]) -> tuple[bool, bool]:
    """Whether an answer's first space is dropped, and whether its text is that of its tokens otherwise."""
    ids = [token for token in backend.encode(_PROBE, add_special_tokens=False).ids if token not in silent]
    said, shown = b"".join(map(known.of, ids)).decode(errors="replace"), backend.decode(ids, skip_special_tokens=True)
    spaced = next((token for token in ids if known.of(token).startswith(b" ")), None)
    drops = spaced is not None and not backend.decode([spaced], skip_special_tokens=True).startswith(" ")
    return drops, shown == (said.removeprefix(" ") if drops else said)

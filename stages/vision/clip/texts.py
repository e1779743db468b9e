"""Texts as an open_clip model reads them: the tokens of open_clip's own tokenizers, in time that grows with a text's length.

Decides that a text over the model's context is refused, not cut. open_clip's `SimpleTokenizer` merges pairs in Python, in the square of
a word's length, and remembers every word; here the `tokenizers` library merges by the same table. Cleaning, and splitting into words,
are open_clip's own functions. Knows no model.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, models, pre_tokenizers

from stages.contract.errors import ConfigurationError, InvalidRequest
from stages.text.combining_marks import in_canonical_order
from stages.text.text_tokenizer import Reading, TextTokenizer, read_in_bounds

_LINES_A_TOKEN = 4  # cleaning takes its time for every line, and a line that is not blank has a token
_BLANK = " \t\r"


@dataclass(frozen=True, slots=True)
class Layout:
    """How a text's tokens stand in the model's context: marks about them, then padding, and perhaps another mark at the very end.
    `zeroed`: a token that the model was trained without."""

    begin: Sequence[int]
    end: Sequence[int]
    padding: int
    last: Sequence[int] = ()
    pads_left: bool = False
    zeroed: int | None = None

    @property
    def num_marks(self) -> int:
        return len(self.begin) + len(self.end) + len(self.last)

    def place(self, ids: Sequence[int], context: int) -> NDArray[np.int64]:
        """[context]"""
        marked = [*self.begin, *ids, *self.end]
        padding = [self.padding] * (context - len(marked) - len(self.last))
        whole = np.asarray([*padding, *marked, *self.last] if self.pads_left else [*marked, *padding, *self.last], np.int64)
        return whole if self.zeroed is None else np.where(whole == self.zeroed, 0, whole)


@dataclass(frozen=True, slots=True)
class ClipTexts:
    """Of one model; any thread. `clean`: open_clip's; `split`: into words that are read one by one."""

    texts: TextTokenizer
    layout: Layout
    context: int
    clean: Callable[[str], str]
    split: Callable[[str], Sequence[str]]

    @classmethod
    def of(cls, tokenizer: Any, context: int) -> "ClipTexts":
        """Of what `open_clip.get_tokenizer` gives, which nobody else may call from now on. Raises `ConfigurationError` for one that
        can't be read so."""
        from open_clip.tokenizer import HFTokenizer, SigLipTokenizer, SimpleTokenizer

        if isinstance(tokenizer, SimpleTokenizer):
            return _of_own_merges(tokenizer, context)
        if isinstance(tokenizer, HFTokenizer | SigLipTokenizer):
            return _of_transformers(tokenizer, context)
        raise ConfigurationError(f"{type(tokenizer).__name__} is no tokenizer of open_clip's that can be read")

    def tokenize(self, text: str) -> tuple[NDArray[np.int64], int]:
        """([context] ids with marks and padding, tokens with marks). Raises `InvalidRequest` for a text that is too long, or can't be
        read."""
        most = self.context - self.layout.num_marks
        reading = read_in_bounds(text, most, partial(self._read, most=most))
        if len(reading.ids) > most:
            whole = Reading([*self.layout.begin, *reading.ids, *self.layout.end, *self.layout.last], reading.is_whole)
            raise self._too_long(f"{whole.told} tokens")
        return self.layout.place(reading.ids, self.context), len(reading.ids) + self.layout.num_marks

    def _read(self, text: str, most: int) -> Reading:
        lines = [line for line in in_canonical_order(text).split("\n") if line.strip(_BLANK)]
        if len(lines) > _LINES_A_TOKEN * most:
            raise self._too_long(f"{len(lines)} lines")
        try:
            cleaned = self.clean("\n".join(lines))
        except ValueError as error:  # a character given by a number of thousands of digits
            raise InvalidRequest("text holds a character reference that is no character", param="text") from error
        return self.texts.read(*self.split(cleaned))

    def _too_long(self, has: str) -> InvalidRequest:
        return InvalidRequest(
            f"the text has {has}; this model reads at most {self.context} tokens, begin and end included", param="text"
        )


def _of_own_merges(tokenizer: Any, context: int) -> ClipTexts:
    if getattr(tokenizer.reduction_fn, "__name__", "") == "syntax_mask_tokenize":
        raise ConfigurationError("reduction_mask syntax puts a text's words into another order by a download; use another one")
    merges = sorted(tokenizer.bpe_ranks, key=tokenizer.bpe_ranks.__getitem__)
    backend = Tokenizer(models.BPE(tokenizer.encoder, merges, end_of_word_suffix="</w>"))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.add_special_tokens([tokenizer.decoder[token] for token in tokenizer.all_special_ids])
    layout = Layout([tokenizer.sot_token_id], [tokenizer.eot_token_id], padding=0)
    texts = TextTokenizer(backend, param="text", max_tokens=context - layout.num_marks)
    return ClipTexts(texts, layout, context, tokenizer.clean_fn, tokenizer.pat.findall)


def _of_transformers(tokenizer: Any, context: int) -> ClipTexts:
    """Of open_clip's wrappers around a tokenizer of `transformers`."""
    inner = tokenizer.tokenizer
    texts = TextTokenizer.of(inner, param="text", max_tokens=context)
    if getattr(tokenizer, "tokenizer_mode", "") == "clips":
        layout = Layout([inner.bos_token_id], [inner.eos_token_id], inner.pad_token_id, last=[inner.cls_token_id])
    else:
        zeroed = inner.sep_token_id if getattr(tokenizer, "strip_sep_token", False) else None
        pads_left = inner.padding_side == "left"
        layout = Layout(texts.begin, texts.end, inner.pad_token_id, pads_left=pads_left, zeroed=zeroed)
    return ClipTexts(texts, layout, context, getattr(tokenizer, "clean_fn", _canonical), lambda text: [text])


def _canonical(text: str) -> str:
    """How `SigLipTokenizer` cleans."""
    from open_clip.tokenizer import basic_clean, canonicalize_text

    cleaned: str = canonicalize_text(basic_clean(text))
    return cleaned

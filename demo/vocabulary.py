"""The tokenizer of the demo's text encoders: CLIP's byte-pair encoding with a vocabulary of the demo world's words.

Decides which words are one token; any other text falls back to sub-words and bytes, so every prompt tokenizes. Knows nothing
of models.
"""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from demo.world import BACKGROUNDS, COLOURS, KINDS

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

MAX_LENGTH = 32
Pair = tuple[str, str]
START, END = "<|startoftext|>", "<|endoftext|>"

_WORDS = (
    *("a", "an", "the", "to", "of", "on", "in", "is", "that", "with", "there", "i", "me", "please", "show", "want", "make"),
    *("draw", "drawing", "paint", "generate", "picture", "image", "background"),
    *("left", "right", "above", "below", "under", "beneath", "underneath", "over", "top"),
)


def words() -> list[str]:
    """The words that are one token each."""
    return sorted({*_WORDS, *BACKGROUNDS, *COLOURS, *KINDS})


def save_tokenizer(folder: Path) -> None:
    """Writes a CLIPTokenizer with this vocabulary into `folder`; the end token has the highest id, as CLIP's pooling wants."""
    from transformers import CLIPTokenizer

    vocabulary, merges = _vocabulary()
    tokenizer = CLIPTokenizer(
        vocab=vocabulary,
        merges=merges,
        bos_token=START,
        eos_token=END,
        unk_token=END,
        pad_token=END,
        model_max_length=MAX_LENGTH,
    )
    tokenizer.save_pretrained(str(folder))


def load_tokenizer(folder: Path) -> CLIPTokenizer:
    """The tokenizer that `save_tokenizer` wrote."""
    from transformers import CLIPTokenizer

    tokenizer: CLIPTokenizer = CLIPTokenizer.from_pretrained(str(folder), trust_remote_code=False)
    return tokenizer


def _vocabulary() -> tuple[dict[str, int], list[Pair]]:
    symbols = _byte_symbols()
    merges = _learn_merges()
    tokens = [*symbols, *(symbol + "</w>" for symbol in symbols), *(left + right for left, right in merges), START, END]
    return {token: index for index, token in enumerate(tokens)}, merges


def _learn_merges() -> list[Pair]:
    """Byte-pair encoding (Sennrich et al., 2016), learned until every word is one token."""
    spellings = [[*word[:-1], word[-1] + "</w>"] for word in words()]
    merges: list[Pair] = []
    while any(len(spelling) > 1 for spelling in spellings):
        counts = Counter(pair for spelling in spellings for pair in pairwise(spelling))
        pair = max(counts, key=lambda pair: (counts[pair], pair))
        merges.append(pair)
        spellings = [_merged(spelling, pair) for spelling in spellings]
    return merges


def _merged(spelling: list[str], pair: Pair) -> list[str]:
    merged: list[str] = []
    for piece in spelling:
        if merged and (merged[-1], piece) == pair:
            merged[-1] += piece
        else:
            merged.append(piece)
    return merged


def _byte_symbols() -> list[str]:
    """One printable character for every byte, as in GPT-2's and CLIP's encodings."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    rest = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + index) for index in range(len(rest))]

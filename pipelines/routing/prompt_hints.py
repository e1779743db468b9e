"""What a prompt's beginnings are called where it is asked who may hold them.

Decides that two prompts under one salt which begin alike, in whole blocks of tokens and with the same images, have hints in common, as
many as they have blocks. Shorter than names, and independent of how a stage keeps keys and values: a hint chooses where to ask, and
never what is believed. Pure.
"""

import hashlib
from array import array
from collections.abc import Iterable, Sequence

BLOCK_TOKENS = 64
MAX_BLOCKS = 1024


def prompt_hints(salt: str, token_ids: Sequence[int], images: Iterable[tuple[int, int, str]] = ()) -> tuple[int, ...]:
    """Of its first blocks, each with all before it; what is left at the end has none. `images`: where each
    stands, how many tokens it is, and its features' name."""
    starting: dict[int, str] = {}
    for offset, length, name in images:
        block = offset // BLOCK_TOKENS
        starting[block] = f"{starting.get(block, '')}\0{name}/{length}@{offset}"
    before = hashlib.blake2b(salt.encode(), digest_size=8).digest()
    found = []
    for block in range(min(len(token_ids) // BLOCK_TOKENS, MAX_BLOCKS)):
        tokens = array("q", token_ids[block * BLOCK_TOKENS : (block + 1) * BLOCK_TOKENS]).tobytes()
        before = hashlib.blake2b(before + tokens + starting.get(block, "").encode(), digest_size=8).digest()
        found.append(int.from_bytes(before))
    return tuple(found)

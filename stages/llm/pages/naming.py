"""What the pages of a prompt are called.

Decides what is in a name beside tokens and images: the tenant's salt, the page's size, and in what form a page is kept. What depends on
who computes (weights, dtype, versions) is added where pages are remembered. Pure; `cache/keys.py` makes the chain.

An image is called by the name of its features: that tells the encoder's weights and versions, not the dtype that it computes in, which
only the encoder knows, and who has a page asks it nothing. So where encoders of two dtypes are served, or one was exchanged for the
other, pages made of the one's features go on beside the other's: answers are then within rounding of a cold run's, not bit for bit it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from cache.keys import name, page_names

PAGE_TOKENS = 64


class NamedImage(Protocol):
    """`length` tokens from `offset`; `name`: of its features."""

    @property
    def offset(self) -> int: ...
    @property
    def length(self) -> int: ...
    @property
    def name(self) -> str: ...


@dataclass(frozen=True, slots=True)
class PageNaming:
    """Names beginnings of texts, page by page. A chain begins with the name of the empty beginning; the name at place i is that of the
    first i pages of `page_tokens` tokens each. `form`: how keys and values are kept; `three_positions`: whether pages tell images'
    grids."""

    page_tokens: int = PAGE_TOKENS
    form: str = "auto"
    three_positions: bool = False

    def extend(self, chain: list[str], salt: str, tokens: Sequence[int], images: Iterable[NamedImage] = ()) -> None:
        """Appends to the chain of some beginning of `tokens` (none yet: an empty list) the names of the full pages that it lacks."""
        if not chain:
            chain.append(self._root(salt))
        begin, end = (len(chain) - 1) * self.page_tokens, len(tokens) - len(tokens) % self.page_tokens
        if begin < end:
            starting = [(f"{one.name}/{one.length}", one.offset - begin) for one in images if begin <= one.offset < end]
            chain += page_names(chain[-1], tokens[begin:end], self.page_tokens, starting)

    def _root(self, salt: str) -> str:
        return name("kv-pages", salt=salt, page_tokens=self.page_tokens, form=self.form, three_positions=self.three_positions)

"""Lists in pages, as OpenAI's files and batches have them: `limit` and `after` in an address. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from stages.contract.errors import InvalidRequest


@dataclass(frozen=True, slots=True)
class Page:
    """`after`: the id behind which it begins; None: at the beginning."""

    limit: int
    after: str | None = None

    def of(self, ids: Sequence[str]) -> tuple[Sequence[str], bool]:
        """Those on it, and whether there are more."""
        begin = ids.index(self.after) + 1 if self.after in ids else 0
        return ids[begin : begin + self.limit], begin + self.limit < len(ids)


def page_of(query: Mapping[str, str], *, default: int, most: int) -> Page:
    """Raises `InvalidRequest`."""
    given = query.get("limit", str(default))
    limit = int(given) if given.isascii() and given.isdecimal() and len(given) < 9 else 0
    if not 1 <= limit <= most:
        raise InvalidRequest(f"limit must be a number from 1 to {most} (given: {given[:20]!r})", param="limit")
    return Page(limit, query.get("after"))

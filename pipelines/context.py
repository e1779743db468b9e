"""One request, from its arrival to its receipt: who asks, until when it matters, and what ran where on its behalf.

Knows no HTTP and no stages' workings; stages' receipts are added to it as they come.
"""

import time
import uuid
from dataclasses import dataclass, field, replace
from typing import TypeVar

from stages.contract.errors import DeadlineExceeded
from stages.contract.item import Item, StageReceipt
from stages.contract.news import NO_HINTS, Hints
from stages.contract.trace import Trace
from stages.contract.work import Work

P = TypeVar("P")


@dataclass(frozen=True, slots=True)
class Note:
    """What became of a field that a request sent and that did not do what it might have done."""

    field: str
    text: str


@dataclass(frozen=True, slots=True)
class TokenUsage:
    """Tokens that were read, and tokens that were written."""

    input_tokens: int
    output_tokens: int = 0


@dataclass(slots=True)
class RequestContext:
    """`id` is the client's where it gave one: for logs and receipts, never part of a name. `deadline` and `created` are wall-clock
    seconds. `tenant` is derived on the server; `salt` goes into every name. `pace_s`: how often, at most, the client is shown
    something new; infinite where it is shown the end only. `lost_replicas`: those that ended with a piece of it in hand, by their names.
    `notes`: of fields without the effect that they might have had, for the receipt. `trace`: where somebody records it. `usage`: once it
    is through, where it is about tokens. `asked_model`: whom the client named, where a share of that one's requests goes to another.
    `asked`: a digest of its body, by which it is known when it comes again; never part of a name."""

    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    tenant: str = "default"
    salt: str = field(default="", repr=False)
    priority: int = 0
    created: float = field(default_factory=time.time)
    deadline: float = float("inf")
    pace_s: float = 0.0
    receipts: list[StageReceipt] = field(default_factory=list)
    lost_replicas: set[str] = field(default_factory=set)
    notes: list[Note] = field(default_factory=list)
    trace: Trace | None = None
    usage: TokenUsage | None = None
    asked_model: str | None = None
    asked: str = ""

    def note(self, field: str, text: str) -> None:
        """Tells in the receipt what became of a field; once."""
        note = Note(field, text)
        if note not in self.notes:
            self.notes.append(note)

    def add(self, *receipts: StageReceipt) -> None:
        """Notes receipts that came now, and when each of them had ended."""
        now_s = time.time() - self.created
        self.receipts += [replace(receipt, ended_s=max(0.0, now_s - receipt.ago_s)) for receipt in receipts]

    def item(
        self, part: str, payload: P, *, name: str | None = None, work: Work | None = None, hints: Hints = NO_HINTS
    ) -> Item[P]:
        """A piece of this request's work for one stage. `part` tells it from others; `work`: about how much it is; `hints`: what of it may
        be remembered somewhere."""
        return Item(
            f"{self.id}:{part}",
            payload,
            name,
            self.priority,
            self.deadline,
            self.pace_s,
            self.tenant,
            self.id,
            salt=self.salt,
            work=work,
            hints=hints,
            trace=self.trace,
        )

    def remaining_s(self) -> float:
        """Seconds until the deadline. Raises `DeadlineExceeded` where none are left."""
        left = self.deadline - time.time()
        if left <= 0:
            raise self.too_late()
        return left

    def too_late(self) -> DeadlineExceeded:
        return DeadlineExceeded(f"the request's time of {self.deadline - self.created:.1f} s is up")

    def device_seconds(self) -> float:
        return sum(receipt.device_s for receipt in self.receipts)

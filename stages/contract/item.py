"""One piece of work for one stage, what it did for it, and its counters. Knows no kind of stage."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Generic, TypeVar

from stages.contract.histogram import HistogramCounts
from stages.contract.message import ALL, message
from stages.contract.news import NO_HINTS, Hints, StageNews, hint
from stages.contract.result import Result
from stages.contract.trace import Trace
from stages.contract.work import Work

P_co = TypeVar("P_co", covariant=True)
V = TypeVar("V", bound=Result)

DEFAULT_TENANT = "default"


@lru_cache(maxsize=4096)
def tenant_hint(tenant: str) -> int:
    """What news calls a tenant; 0 for the one that all are who are not told apart."""
    return 0 if tenant == DEFAULT_TENANT else hint(f"tenant:{tenant}")


@message(droppable=["pace_s", "work", "hints", "trace", "kept_s"], time_left=["deadline"])
@dataclass(frozen=True, slots=True)
class Item(Generic[P_co]):
    """One piece of work for one stage.

    `name` is the digest under which the result is remembered (one-shot stages only; None: never remembered).
    `deadline` is wall-clock time (`time.time()` seconds) of the process that holds the item. No two machines' clocks agree, so
    what crosses to another process is how much time is left; what the way takes is not taken off, since whoever sent it waits no
    longer by its own clock.
    A lower `priority` runs first (0 is the default; negative is more urgent).
    `pace_s` (iterative stages): after the first events, further ones are handed over no more often than this, several at a
    time; infinite: all of them at the end. Every hand-over costs its way through the cluster: of many streams less often. 0: as they come.
    A device's time is shared between tenants, whatever their priorities. `request`: what it is a piece of, so that others of the
    tenant need not wait for all of its pieces ("": of nothing that has several).
    `made_for`: by stage, a digest of the files that its tokens, names and payload suppose there; a stage that was loaded from others
    refuses it.
    `salt`: the tenant's secret: results are remembered under it, and believed under no other.
    `work`: about how much it will take; None where nobody knows. `hints`: what of it may be remembered somewhere. `trace`: of its request,
    where somebody records that.
    `kept_s`: how often what there is so far is handed over where `pace_s` is infinite, so that less is lost with the replica.
    `continues`: another replica ended while it had this in hand, and had told something of it.
    """

    id: str
    payload: P_co
    name: str | None = None
    priority: int = 0
    deadline: float = float("inf")
    pace_s: float = 0.0
    tenant: str = DEFAULT_TENANT
    request: str = ""
    made_for: Mapping[str, str] = field(default_factory=dict)
    salt: str = field(default="", repr=False)
    work: Work | None = None
    hints: Hints = NO_HINTS
    trace: Trace | None = None
    kept_s: float = float("inf")
    continues: bool = False


@message(droppable=[ALL])
@dataclass(frozen=True, slots=True)
class StageReceipt:
    """What one stage did for one request. Seconds; `device_s` is this request's share of the device's time (run / batch size)."""

    stage: str
    replica: str = "local"
    device: str = "cpu"
    dtype: str = "float32"
    queue_s: float = 0.0
    run_s: float = 0.0
    device_s: float = 0.0
    batch_size: float = 0.0  # mean over the steps it took part in
    steps: int = 0
    cache: str = "off"
    """Of a result: "off" | "miss" | "joined" (another request was already computing it) | the tier that had it ("memory", "redis"). Of a
    row, where its beginning comes from, the farthest: "off" | "miss" | "slots" (the stage holds it) | a tier."""
    bytes_moved: int = 0
    cache_s: float = 0.0  # waited for pages of its beginning, before it was in the queue
    ago_s: float = 0.0  # how long before it was handed on it ended, by the clock of whoever handed it on
    ended_s: float = 0.0  # after the request's arrival; set where the receipt is gathered, by that one clock
    pool: str | None = None
    """The deployment that it was sent to; None: it was run in the asking process."""
    expected_s: float | None = None
    """In how much time it was expected to be done when it was sent there; None: nobody chose. `runner_up`: the replica that would have been
    next, in `runner_up_pool`, expected to be done in `runner_up_s`. `remembered`: what of it was known to be at hand there, in words;
    `reasons`: why it was sent there."""
    runner_up: str | None = None
    runner_up_pool: str | None = None
    runner_up_s: float | None = None
    remembered: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()
    ended_early: bool = False
    """The replica ended, and another went on: what it did until then is not known, but for how long it had it (`run_s`)."""


@message(droppable=["inputs", "news"])
@dataclass(frozen=True, slots=True)
class Reply(Generic[V]):
    """A one-shot stage's answer. `inputs`: receipts of the results that were made for it. `origin`: whoever made it, or would
    have (`stages/host/remembered/origin.py`): with the item's name it makes the name under which the result is remembered.
    `news`: of the replica that answers."""

    value: V
    receipt: StageReceipt
    inputs: tuple[StageReceipt, ...] = ()
    origin: str | None = None
    news: tuple[StageNews, ...] = ()

    @property
    def receipts(self) -> tuple[StageReceipt, ...]:
        """All of them, those of the inputs first."""
        return (*self.inputs, self.receipt)


@message(droppable=[ALL])
@dataclass(frozen=True, slots=True)
class InputReceipts:
    """The host's own word in a stream, of the results that are at hand for it now. Never the only cause to hand something over: it
    comes with the stage's next events, or before its error."""

    receipts: tuple[StageReceipt, ...]


@message(droppable=[ALL])
@dataclass(frozen=True, slots=True)
class ReplicaEnded:
    """A stage client's own word in a stream: the replica ended, and another goes on. `receipt`: as far as is known from here."""

    receipt: StageReceipt


@message(droppable=["news"])
@dataclass(frozen=True, slots=True)
class StreamEnd:
    """The host's own last word on a stream. `news`: of the replica that answers."""

    receipt: StageReceipt
    news: tuple[StageNews, ...] = ()


@message(droppable=[ALL])
@dataclass(frozen=True, slots=True)
class StageMetrics:
    """Counters of one stage in one replica, since it started."""

    stage: str
    replica: str
    device: str
    dtype: str
    counters: Mapping[str, float]
    """queued (of which preparing), queued_tenants (whose they are), running, waiting_for_inputs (counted in neither),
    missing_inputs_total (how often an item had to wait for inputs after all), items_total, continued_total (of those, taken over from a
    replica that ended), batches_total,
    batch_items_total, steps_total, device_seconds_total, cancelled_total,
    failed_total, expired_total, rejected_total (these four also of what never got its inputs), preempted_total,
    preempted_for_others_total (of those, for another tenant, which had fewer rows), let_in_beyond_total (into a full queue, because
    their tenant had less than its part of it), out_of_memory_total (batches that did not fit),
    batch_bound_items and batch_bound_cost (what a batch may hold now: less than configured after that),
    outstanding_amount, outstanding_steps and outstanding_seconds (what is left to do of all that is queued or runs, in the stage's own
    unit; 0 seconds while nobody knows), speed_factor (by how much longer steps take than the stage's profile says), finish_margin (of
    twenty items nineteen take at most so many times what was expected of them when they came), step_expected_seconds_total,
    step_taken_seconds_total and step_error_seconds_total (of steps and batches: what the cost model said, what they took, and by how
    much the two differed), finish_expected_seconds_total, finish_taken_seconds_total and finish_error_seconds_total (the same of
    items, from submission to their ends),
    cache_hits_TIER_total (of each tier that the cache has), cache_misses_total, cache_joined_total, cache_waits_total and
    cache_wait_seconds_total (for another process that was making the same).

    Of the caches of a process, told with its first stage; CACHE is "cache" (results) or "pages" (where rows begin), TIER "memory" or
    "redis", KIND what the values are ("vision_features"):
    CACHE_evictions_total and CACHE_memory_bytes (of memory), CACHE_errors_total, CACHE_corrupt_total (values that did not check),
    CACHE_TIER_down (of a far tier; 1: it doesn't answer, and is left alone for now), CACHE_TIER_opened_total (how often that began),
    CACHE_TIER_KIND_hits_total, ..._misses_total, ..._puts_total, ..._put_bytes_total, ..._dropped_total, ..._corrupt_total.

    Of a stage whose rows begin where others left off, with pages remembered:
    page_hits_slots_total, page_hits_TIER_total, page_misses_total (of the pages that newcomers' beginnings
    have: where they were, and how many had to be computed), page_bytes_fetched_total (from far tiers),
    page_fetches_chosen_total, page_fetches_declined_total (computing is expected to be faster), page_fetches_refused_total (too much
    waited or was held already), page_fetches_failed_total (nothing came of it, or the cache didn't answer),
    page_wait_seconds_total (of items, for where pages are and for pages), page_fetch_seconds_total (of it, for pages),
    page_fetch_error_seconds_total (by how much that differed from what was expected, where anything was),
    page_bytes_in_flight (of pages that items hold which have not started), page_compute_seconds and page_fetch_TIER_seconds
    (what a page is expected to take; 0: nobody knows), pages_exported_total and page_bytes_exported_total
    (handed to the cache), pages_dropped_total (came faster than they could be written), page_bytes_writing (that wait for it),
    page_failures_total (how often the stage failed over pages; no request did)"""

    is_hosted: bool = True
    """False: the stage is elsewhere, and these are of its results that this replica remembered or joined."""
    pool: str = ""
    """The deployment that the replica is of; "": of none."""
    histograms: Mapping[str, HistogramCounts] = field(default_factory=dict)
    """queue_seconds (of items, from submission to the first step or batch that they are in), item_seconds (of those that came to a good
    end, from submission to it), step_seconds and batch_size (of steps and batches: how long, of how many items). Of an iterative stage:
    first_event_seconds (from when the item came to its first event, with what it had to wait for), and
    between_events_seconds (from one event of an item to its next: for a text, about a token)."""
    memory: Mapping[str, float] = field(default_factory=dict)
    """Of the process, told with its first stage: process_memory_bytes, event_loop_tasks (what runs or waits there); and of an accelerator,
    whoever uses it, device_memory_used_bytes and device_memory_total_bytes."""

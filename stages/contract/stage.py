"""The contract between a stage and what hosts it: what goes in, what comes out, and the two kinds of stage.

A stage is a loaded part of a model on one device. It is synchronous and is only ever called from its engine's own thread
(`prepare` excepted). It knows no HTTP, no cluster, no other stage. A stage is one of two kinds:

- `OneShotStage` (vision encoder, text encoder, VAE decoder, CLIP embedder): a batch of items goes in, a result each comes out.
- `IterativeStage` (LLM, denoiser): rows; a row may join or leave between any two steps.

A stage never decides what runs when: that is `stages/engine/scheduler.py`. It never remembers results: that is `stages/host/host.py`.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

import numpy as np
from numpy.typing import NDArray

Arrays = Mapping[str, NDArray[Any]]
"""A result: named numpy arrays, C-contiguous, in the dtype they were computed in; bfloat16 is `BFLOAT16` of cache/codec.py."""

P = TypeVar("P")  # what a pipeline sends
P_contra = TypeVar("P_contra", contravariant=True)
Q = TypeVar("Q")  # what `prepare` makes of it
R = TypeVar("R")  # the state of one running request


@dataclass(frozen=True, slots=True)
class Item(Generic[P]):
    """One piece of work for one stage.

    `name` is the digest under which the result is remembered (one-shot stages only; None: never remembered).
    `deadline` is wall-clock time (`time.time()` seconds), so that it means the same on every machine.
    A lower `priority` runs first (0 is the default; negative is more urgent).
    `pace_s` (iterative stages): after the first events, further ones are handed over no more often than this, several at a
    time; infinite: all of them at the end. Every hand-over costs its way through the cluster.
    """

    id: str
    payload: P
    name: str | None = None
    priority: int = 0
    deadline: float = float("inf")
    pace_s: float = 0.0


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
    cache: str = "off"  # "off" | "miss" | "memory" | "redis" | "joined" (another request was already computing it)
    bytes_moved: int = 0
    ended_s: float = 0.0  # after the request's arrival; set where the receipt is gathered, by that one clock


@dataclass(frozen=True, slots=True)
class Reply:
    """A one-shot stage's answer."""

    value: Arrays
    receipt: StageReceipt


class OneShotStage(Protocol[P_contra, Q]):
    """A batch goes in, results come out, in the same order."""

    @property
    def device(self) -> str: ...

    def prepare(self, payload: P_contra) -> Q:
        """What can be done without the device (decode, resize, tokenize). Called on a pool thread; may raise `InvalidRequest`."""
        ...

    def batch_key(self, item: Q) -> Hashable:
        """Items with equal keys may share a batch."""
        ...

    def cost(self, item: Q) -> float:
        """In the stage's own work unit (image patches, prompt tokens, pixels)."""
        ...

    def run(self, batch: Sequence[Q]) -> Sequence[Arrays]:
        """One result per item. If it raises, the engine retries the items one by one, so that a bad one fails alone; where memory
        ran out, in smaller batches."""
        ...


@dataclass(frozen=True, slots=True)
class Stepped:
    """What a step did for one row: events for the client, in order, and whether the row is done or failed."""

    events: Sequence[object] = ()
    done: bool = False
    error: Exception | None = None


class IterativeStage(Protocol[P_contra, R]):
    """Rows that advance together, one step at a time.

    The engine calls, from one thread: `start` once per item (only when `can_start`), then `step` with any running rows that
    share a `batch_key`, and `finish` exactly once per started row: done, failed, cancelled or past its deadline. A row that
    must make way is suspended, then finished; later, when `can_start`, `resume` makes a row that goes on where it stopped.

    Where memory runs out (`stages/contract/faults.py` knows the errors), nothing has happened: a `start` or `resume` that raises it has
    taken nothing, and a `step` that raises it has left every row as it was, so that all of them may go on, fewer at a time.
    """

    @property
    def device(self) -> str: ...

    def check(self, payload: P_contra) -> None:
        """Raises `InvalidRequest` for a payload that could never run (longer than a slot, an unknown sampler). Any thread; cheap."""
        ...

    def weigh(self, payload: P_contra) -> tuple[Hashable, float]:
        """What it will need of its first step, before it starts: a key, equal only where the rows' batch keys will be, and the
        cost. Pure; any thread; cheap."""
        ...

    def can_start(self, payload: P_contra) -> bool:
        """Whether there is room for it now (a slot, memory)."""
        ...

    def start(self, payload: P_contra) -> R: ...

    def suspend(self, row: R) -> object:
        """What `resume` needs; holds nothing of the device. The row stays as it is: `finish` follows."""
        ...

    def resume(self, payload: P_contra, suspended: Any) -> R:
        """A row of the same payload that goes on where the suspended one stopped: the client sees no difference."""
        ...

    def batch_key(self, row: R) -> Hashable:
        """Rows with equal keys may share a step."""
        ...

    def cost(self, row: R) -> float:
        """What the row adds to a step, in the stage's own work unit (rows x latent tokens, tokens)."""
        ...

    def step(self, rows: Sequence[R]) -> Sequence[Stepped]:
        """Advances every row once; one `Stepped` each, in order. If it raises, every row in the step fails."""
        ...

    def finish(self, row: R) -> None:
        """Frees what the row holds. Never raises; may be called for a row that never stepped."""
        ...


@runtime_checkable
class Shrinkable(Protocol):
    """A stage, of either kind, that can do the same work in smaller pieces, at some cost in speed."""

    def shrink(self) -> bool:
        """One item alone ran out of memory. True: its work comes in smaller pieces from now on; False: it already does."""
        ...


# ---- what pipelines send, and what comes back ----


@dataclass(frozen=True, slots=True)
class EncodeImage:
    """For a vision encoder: an encoded picture (PNG, JPEG, WebP, GIF, BMP), as `stages/vision/picture.py` accepts it. Result: {"features":
    [tokens, width] float}, ready to stand in the LLM's input embeddings; other keys (e.g. "grid_thw" [3] int64) as the model needs."""

    data: bytes
    max_pixels: int


@dataclass(frozen=True, slots=True)
class EncodePrompt:
    """For a diffusion text encoder. Result: the arrays that its denoiser family wants ("embeds" [positions, width], "pooled" [width],
    ...). `min_positions`: of "embeds", filled up with the empty text's, for what shares a forward pass with a longer prompt."""

    text: str
    min_positions: int = 0


@dataclass(frozen=True, slots=True)
class EmbedInput:
    """For a CLIP embedder: exactly one of text and image (encoded picture). Result: {"embedding": [width] float32, unit length}."""

    text: str | None = None
    image: bytes | None = None
    max_pixels: int = 0


@dataclass(frozen=True, slots=True)
class DecodeLatents:
    """For a VAE decoder: latents as the denoiser gives them, [channels, height, width] (or packed, as the family does). Result:
    {"pixels": [height, width, 3] uint8}."""

    latents: Arrays


@dataclass(frozen=True, slots=True)
class EncodePixels:
    """For a VAE encoder (image-to-image): [height, width, 3] uint8. Result: {"latents": ...} scaled as the denoiser takes them."""

    pixels: NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class ImageSpan:
    """Where a picture stands in a prompt: `length` placeholder tokens from `offset`; `value` is the vision encoder's result."""

    offset: int
    length: int
    digest: str
    value: Arrays


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is chosen. temperature 0 is greedy. `logprobs` None: none; n: the n likeliest beside the chosen one (0-20).
    `top_k` 0, `min_p` 0 and `repetition_penalty` 1 do nothing."""

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    logprobs: int | None = None
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0


@dataclass(frozen=True, slots=True)
class Generate:
    """For an LLM. `token_ids` holds placeholder tokens where `images` go. What is computed for one `salt` serves no other."""

    token_ids: tuple[int, ...]
    sampling: Sampling
    images: tuple[ImageSpan, ...] = ()
    salt: str = ""


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    token_id: int
    text: str
    data: bytes
    logprob: float
    top: tuple["TokenLogprob", ...] = ()


@dataclass(frozen=True, slots=True)
class TokenDelta:
    """From an LLM: text that can be shown now ("" while a character is incomplete or a stop string may be beginning)."""

    text: str
    num_tokens: int
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class GenerationEnd:
    """From an LLM, last. `reason` is "stop" or "length". Counts are exact; `cached_tokens` of the prompt were not computed."""

    reason: str
    completion_tokens: int
    cached_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Denoise:
    """For a denoiser. `negative` None: no classifier-free guidance (one row instead of two). `sampler` None: the checkpoint's own.
    `preview_steps`: after which steps (1-based) an estimate of the finished latents is wanted. `init` with `strength` (0-1]:
    start from these latents (image-to-image)."""

    prompt: Arrays
    negative: Arrays | None
    width: int
    height: int
    steps: int
    guidance_scale: float
    seed: int
    sampler: str | None = None
    preview_steps: tuple[int, ...] = ()
    init: Arrays | None = None
    strength: float = 1.0


@dataclass(frozen=True, slots=True)
class DenoiseProgress:
    """From a denoiser after every step (1-based)."""

    step: int
    total: int


@dataclass(frozen=True, slots=True)
class DenoisePreview:
    """From a denoiser: its estimate of the finished latents, to be shown through the VAE decoder."""

    step: int
    latents: Arrays


@dataclass(frozen=True, slots=True)
class DenoiseEnd:
    """From a denoiser, last."""

    latents: Arrays


@dataclass(frozen=True, slots=True)
class StreamEnd:
    """The host's own last word on a stream."""

    receipt: StageReceipt


@dataclass(frozen=True, slots=True)
class StageMetrics:
    """Counters of one stage in one replica, since it started."""

    stage: str
    replica: str
    device: str
    dtype: str
    counters: Mapping[str, float]
    """queued, running, items_total, batches_total, batch_items_total, steps_total, device_seconds_total, cancelled_total,
    failed_total, expired_total, rejected_total, preempted_total, out_of_memory_total (batches that did not fit),
    batch_bound_items and batch_bound_cost (what a batch may hold now: less than configured after that),
    cache_hits_memory_total, cache_hits_redis_total, cache_misses_total, cache_joined_total, cache_evictions_total,
    cache_errors_total"""

"""A device whose memory really runs out, and one that really breaks: what becomes of the requests there, by the engines that serve them.

Memory is made short by what torch lets this process have of it: as much as a step of four rows took, and a little. Knows no speed.
"""

from __future__ import annotations

import json
import random
import struct
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.gpu.checkpoints import language_model, painter
from benchmarks.gpu.part import Part
from benchmarks.gpu.right_llm import load
from stages.checkpoints.checkpoint import LoadOptions, Source
from stages.contract.errors import Broken, ConfigurationError, TooLarge, TriptychError, Unavailable
from stages.contract.item import Item
from stages.contract.limits import BatchLimits, QueueLimits
from stages.contract.recipe import NO_INPUTS, Inputs, Payload
from stages.diffusion.messages import DecodeLatents, Latents
from stages.engine.base import BaseEngine
from stages.engine.iterative import IterativeEngine
from stages.engine.one_shot import OneShotEngine
from stages.host.kinds.registry import StageSpec
from stages.host.kinds.registry import load as load_stage
from stages.llm.messages import Generate, Sampling
from stages.llm.settings import LlmSettings
from tests.stages.diffusion.painter import Painter, Wish
from tests.stages.fakes import Add, Inbox, Total

MIB = 2**20
REQUESTS = 48
FITTING = 4
ALL = 16
PATIENCE_S = 100.0


def run(part: Part) -> None:
    with part.trying("refused before it loads"):
        _refused(part)
    with part.trying("an llm that fits four rows"):
        _llm(part)
    with part.trying("a denoiser that fits four rows"):
        _denoiser(part)
    with part.trying("a vae"):
        _vae(part)


def run_broken(part: Part) -> None:
    """In a process of its own: nothing works there afterwards."""
    with part.trying("a device-side assertion"):
        _broken(part)


# ---- before loading ----


def _refused(part: Part) -> None:
    """Seventy billion parameters, as a file's header tells of them; and slots for more than there is."""
    folder = part.folder / "seventy-billion"
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "architectures": ["LlamaForCausalLM"]}))
    shape = [80, 875_000_000]
    header = json.dumps({"w": {"dtype": "BF16", "shape": shape, "data_offsets": [0, 2 * shape[0] * shape[1]]}}).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    part.add(what="140 GB of weights", **_refusal(part, folder, LlmSettings(4, 2048, 256)))
    part.add(what="slots of 32 k for 4,096", **_refusal(part, language_model(part), LlmSettings(4096, 32_768, 256)))


def _refusal(part: Part, folder: Path, settings: LlmSettings) -> dict[str, Any]:
    options = LoadOptions(device=part.device, dtype="bfloat16")
    spec = StageSpec("big.llm", "llm", "transformers", Source(folder=str(folder)), options, BatchLimits(), QueueLimits(),
                     settings=settings)  # fmt: skip
    try:
        load_stage(spec)
    except ConfigurationError as error:
        return {"ok": "GiB free" in error.message, "told": error.message[:300]}
    return {"ok": False, "told": "it was loaded"}


# ---- memory runs out ----


def _llm(part: Part) -> None:
    settings = LlmSettings(ALL, 1024, part.pick(8192, 1024))
    llm = load(language_model(part), part.device, "bfloat16", settings)
    draw, length = random.Random(0), part.pick(500, 60)

    def asked() -> Generate:
        return Generate(tuple(draw.choices(range(10, 400), k=length)), Sampling(8, temperature=0.0))

    def steps(count: int) -> None:
        works = [asked() for _ in range(count)]
        rows = [llm.start(work, llm.prepare(work, NO_INPUTS)) for work in works]
        for _ in range(3):
            llm.step(rows)
        for row in rows:
            llm.finish(row)

    engine = IterativeEngine(llm, name="llm", batch=BatchLimits(ALL))
    with _closing(engine), _short_of_memory(part, "llm", steps):
        _asked(part, "llm, 48 requests", engine, [(asked(), NO_INPUTS) for _ in range(REQUESTS)])
    engine = IterativeEngine(llm, name="llm", batch=BatchLimits(ALL))
    with _closing(engine), _no_memory() if part.device == "cuda" else nullcontext():
        one = _ended(engine, [(asked(), NO_INPUTS)])[0]
        told = "it came in smaller pieces" if one.error is None else str(one.error)
        part.add(what="llm, next to no memory", ok=one.error is None or isinstance(one.error, TooLarge), told=told[:300])
    engine = IterativeEngine(llm, name="llm", batch=BatchLimits(ALL))
    with _closing(engine):
        one = _ended(engine, [(asked(), NO_INPUTS)])[0]
        part.add(what="llm, once there is memory again", ok=one.error is None)


def _denoiser(part: Part) -> None:
    made, side = Painter.load(painter(part), LoadOptions(device=part.device, dtype="bfloat16")), part.pick(512, 32)

    def wished(seed: int, side: int = side) -> Any:
        return made.task(Wish(seed=seed, steps=2, size=(side, side)))

    tasks = [wished(seed) for seed in range(REQUESTS)]

    def steps(count: int) -> None:
        rows = [made.start(task) for task in tasks[:count]]
        made.denoiser.step(rows)
        for row in rows:
            made.denoiser.finish(row)

    engine = IterativeEngine(made.denoiser, name="denoiser", batch=BatchLimits(ALL))
    with _closing(engine), _short_of_memory(part, "denoiser", steps):
        _asked(part, "denoiser, 48 requests", engine, [(task.payload, task.inputs) for task in tasks])
        large = wished(1, part.pick(2048, 128))
        one = _ended(engine, [(large.payload, large.inputs)])[0]
        part.add(what="denoiser, one that doesn't fit", ok=isinstance(one.error, TooLarge), told=str(one.error)[:300])


def _vae(part: Part) -> None:
    """What doesn't fit at once comes image by image, and one that doesn't fit alone in tiles."""
    made, side = Painter.load(painter(part), LoadOptions(device=part.device, dtype="bfloat16")), part.pick(128, 8)
    noise = np.random.default_rng(0)
    payloads = [DecodeLatents(Latents(noise.standard_normal((4, side, side), np.float32))) for _ in range(4)]
    items = [made.decoder.prepare(payload, NO_INPUTS) for payload in payloads]
    right = [one.pixels.astype(int) for one in made.decoder.run(items)]

    def decode(count: int) -> None:
        made.decoder.run(items[:count])

    for name, fits in (("image by image", 1.5), ("in tiles", 0.6)):
        engine = OneShotEngine(made.decoder, name="vae_decoder", batch=BatchLimits(4))
        with _closing(engine), _short_of_memory(part, f"vae, {name}", decode, fits=fits, many=4):
            found = _ended(engine, [(payload, NO_INPUTS) for payload in payloads])
        off = [float(np.abs(one.value.arrays()["pixels"].astype(int) - pixels).mean()) for one, pixels in zip(found, right, strict=True)
               if one.value is not None]  # fmt: skip
        part.add(what=f"vae {name}", ok=len(off) == len(right), levels_off=round(max(off, default=0.0), 3))


def _asked(part: Part, what: str, engine: BaseEngine[Any, Any], items: Sequence[tuple[Payload, Inputs]]) -> None:
    found = _ended(engine, items)
    errors = [str(one.error) for one in found if one.error is not None]
    metrics = engine.metrics()
    part.add(
        what=what,
        ok=not errors and (part.device != "cuda" or metrics["out_of_memory_total"] > 0),
        succeeded=len(found) - len(errors),
        out_of_memory=metrics["out_of_memory_total"],
        bound=round(metrics.get("batch_bound_cost", 0.0), 1),
        error=errors[0][:200] if errors else "",
    )


def _ended(engine: BaseEngine[Any, Any], items: Sequence[tuple[Payload, Inputs]]) -> list[Inbox]:
    boxes = [Inbox() for _ in items]
    for number, ((payload, inputs), box) in enumerate(zip(items, boxes, strict=True)):
        engine.submit(Item(str(number), payload), inputs, box)
    for box in boxes:
        box.wait()
    return boxes


@contextmanager
def _closing(engine: BaseEngine[Any, Any]) -> Iterator[None]:
    try:
        yield
    finally:
        engine.close(PATIENCE_S)


@contextmanager
def _short_of_memory(
    part: Part, what: str, compute: Callable[[int], None], *, fits: float = FITTING, many: int = ALL
) -> Iterator[None]:
    """As much as is held now and `fits` of `many` take at once, by what one and all took."""
    if part.device != "cuda":
        yield
        return
    compute(1)
    one, everything = _peak(lambda: compute(1)), _peak(lambda: compute(many))
    each = (everything - one) / (many - 1)
    torch.cuda.empty_cache()
    allowed = torch.cuda.memory_reserved() + (one + each * (fits - 1) if fits >= 1 else one * fits) * 1.1
    part.add(what=f"{what}: memory", ok=True, one_mib=one // MIB, all_mib=everything // MIB, allowed_mib=round(allowed / MIB))
    with _allowed(allowed):
        yield


@contextmanager
def _no_memory() -> Iterator[None]:
    torch.cuda.empty_cache()
    with _allowed(torch.cuda.memory_reserved() + 2 * MIB):
        yield


@contextmanager
def _allowed(num_bytes: float) -> Iterator[None]:
    whole = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, num_bytes / whole))
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def _peak(compute: Callable[[], None]) -> int:
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    compute()
    return torch.cuda.max_memory_allocated() - before


# ---- the device breaks ----


@dataclass(frozen=True, slots=True)
class _Indexing:
    """A one-shot stage that looks up what is asked for in a table of ten, as kernels do: nothing stops them beforehand."""

    device: str
    result_type: type[Total] = Total

    def check(self, payload: Add) -> None: ...

    def weigh(self, payload: Add) -> float:
        return 1.0

    def prepare(self, payload: Add, inputs: Inputs) -> int:
        return payload.a

    def batch_key(self, item: int) -> Hashable:
        return ()

    def cost(self, item: int) -> float:
        return 1.0

    def run(self, batch: Sequence[int]) -> Sequence[Total]:
        table = torch.arange(10, device=self.device)
        return [Total.of_int(int(table[torch.tensor([number], device=self.device)].item())) for number in batch]


def _broken(part: Part) -> None:
    engine: OneShotEngine[Add, int, Total] = OneShotEngine(_Indexing(part.device), name="indexing", batch=BatchLimits(4))
    well = _ended(engine, [(Add(3), NO_INPUTS)])[0]
    began = time.perf_counter()
    bad = _ended(engine, [(Add(1000), NO_INPUTS)])[0]
    took = time.perf_counter() - began
    refused: TriptychError | None = None
    try:
        engine.check()
    except Unavailable as error:
        refused = error
    later = _refused_now(engine)
    part.add(
        what="device-side assertion",
        ok=well.error is None and isinstance(bad.error, Broken) and engine.is_broken and refused is not None and later,
        seconds=round(took, 2),
        told=str(bad.error)[:300],
    )
    engine.close(10)


def _refused_now(engine: BaseEngine[Any, Any]) -> bool:
    try:
        engine.submit(Item("later", Add(1)), NO_INPUTS, Inbox())
    except Unavailable:
        return True
    return False

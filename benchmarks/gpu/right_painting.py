"""Whether painters and encoders compute on the device what they compute in this machine's memory, and rows the same alone as beside
others. Knows nothing of speed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.gpu.checkpoints import painter
from benchmarks.gpu.part import Part
from stages.checkpoints.checkpoint import LoadOptions, Source, resolve
from stages.contract.recipe import NO_INPUTS
from stages.device.arrays import as_tensor
from stages.diffusion.denoise_row import DenoiseRow
from stages.diffusion.messages import EncodeToLatents
from stages.diffusion.vae import VaeEncoder
from stages.vision.clip.encoder import OpenClipEncoder
from stages.vision.messages import EncodeImage
from tests.stages.diffusion.painter import Painter, Wish, checkpoint_of, paint_rows
from tests.stages.diffusion.tiny import (
    save_flux,
    save_stable_diffusion,
    save_stable_diffusion_3,
    save_stable_diffusion_xl,
)
from tests.stages.vision.tiny_clip import image

CLOSE = 1e-3
"""Of a result's own spread, in float32: what another order of summation may change."""


def run(part: Part) -> None:
    saves: dict[str, Callable[[Path], Path]] = {
        "stable diffusion": save_stable_diffusion,
        "stable diffusion xl": save_stable_diffusion_xl,
        "stable diffusion 3": save_stable_diffusion_3,
        "flux": save_flux,
    }
    for name, save in saves.items():
        with part.trying(name):
            _tiny(part, name, save(part.folder / f"tiny-{name.replace(' ', '-')}"))
    with part.trying("samplers"):
        _samplers(part)
    with part.trying("stable diffusion xl of real size"):
        _real_size(part)
    with part.trying("open_clip"):
        _clip(part)


def _tiny(part: Part, name: str, folder: Path) -> None:
    """Two processors paint the same, and rows beside others as alone."""
    ours, theirs = Painter.load(folder, LoadOptions(device=part.device)), Painter.load(folder)
    wishes = _wishes((32, 32), negative="" if ours.denoiser.info.negative_prompts else None)
    finished = paint_rows(ours.denoiser, {number: ours.start(wish) for number, wish in enumerate(wishes)})
    together = [finished[number] for number in range(len(wishes))]
    alone = [ours.latents(wish) for wish in wishes]
    on_host = [theirs.latents(wish) for wish in wishes]
    part.add(
        what=name,
        ok=max(map(_off, together, alone)) < CLOSE and max(map(_off, alone, on_host)) < CLOSE,
        beside_others=_worst(together, alone),
        from_cpu=_worst(alone, on_host),
        pixels_off=max(int(np.abs(a.astype(int) - b.astype(int)).max()) for a, b in _pixels(ours, theirs, on_host)),
    )


def _samplers(part: Part) -> None:
    """Each paints what it paints in this machine's memory, and goes on from where it was suspended."""
    folder = part.folder / "tiny-stable-diffusion"
    ours, theirs = Painter.load(folder, LoadOptions(device=part.device)), Painter.load(folder)
    for name in ours.denoiser.info.samplers:
        with part.trying(name):
            wish = Wish(sampler=name, steps=6)
            whole = ours.latents(wish)
            task = ours.task(wish)
            row = ours.start(task)
            for _ in range(3):
                ours.denoiser.step([row])
            state = ours.denoiser.suspend(row)
            ours.denoiser.finish(row)
            resumed = ours.denoiser.resume(task.payload, ours.prepare(task), state)
            off, apart = _off(whole, theirs.latents(wish)), _off(paint_rows(ours.denoiser, {0: resumed})[0], whole)
            part.add(what=f"sampler {name}", ok=off < CLOSE and apart < CLOSE, from_cpu=round(off, 6), resumed=round(apart, 6))


def _pixels(ours: Painter, theirs: Painter, latents: list[NDArray[np.float32]]) -> Any:
    return zip(ours.pixels(latents), theirs.pixels(latents), strict=True)


def _real_size(part: Part) -> None:
    folder, side = painter(part), part.pick(512, 32)
    for dtype in ("float32", "float16", "bfloat16"):
        with part.trying(f"sdxl in {dtype}"):
            _rows(part, Painter.load(folder, LoadOptions(device=part.device, dtype=dtype)), dtype, side)
            if part.device == "cuda":
                part.add(what=f"sdxl in {dtype}, memory", ok=True, peak_mib=torch.cuda.max_memory_allocated() // 2**20)
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()


def _rows(part: Part, made: Painter, dtype: str, side: int) -> None:
    wishes = _wishes((side, side))
    rows: dict[int, DenoiseRow] = {number: made.start(wish) for number, wish in enumerate(wishes)}
    finished = paint_rows(made.denoiser, rows)
    together = [finished[number] for number in range(len(wishes))]
    alone = [made.latents(wish) for wish in wishes]
    worst = _worst(together, alone)
    part.add(what=f"sdxl in {dtype}, beside others", ok=dtype != "float32" or worst < CLOSE, off=worst)
    whole = made.pixels(alone)
    one_by_one = [made.pixels([one])[0] for one in alone]
    tiled = made.decoder._vae.pieces._in_tiles(
        torch.from_numpy(alone[0][None]).to(part.device), side // made.decoder._vae.factor, made.decoder._decode
    )[0]
    part.add(
        what=f"sdxl's vae in {dtype}",
        ok=True,
        slices_off=max(_levels(a, b) for a, b in zip(whole, one_by_one, strict=True)),
        tiles_off_mean=round(float(np.abs(tiled.cpu().numpy().astype(float) - whole[0].astype(float)).mean()), 2),
    )
    encoder = VaeEncoder.load(checkpoint_of(painter(part)), LoadOptions(device=part.device, dtype=dtype))
    item = encoder.prepare(EncodeToLatents(image(1, side, side), side, side, 10**7), NO_INPUTS)
    part.add(what=f"sdxl's vae encoder in {dtype}", ok=bool(np.isfinite(encoder.run([item])[0].latents).all()))


def _clip(part: Part) -> None:
    clip, projector = resolve(Source(demo="clip")), resolve(Source(demo="projector"))
    found: dict[str, torch.Tensor] = {}
    for device, dtype in (("cpu", "float32"), (part.device, "float32"), (part.device, "bfloat16")):
        encoder = OpenClipEncoder.load(clip, projector, LoadOptions(device=device, dtype=dtype))
        items = [encoder.prepare(EncodeImage(image(seed, 200, 150), 10**6), NO_INPUTS) for seed in range(3)]
        results = [as_tensor(one.features, dtype=torch.float32, device="cpu") for one in encoder.run(items)]
        found[f"{'cpu' if device == 'cpu' else 'device'} {dtype}"] = torch.stack(results)
    right = found.pop("cpu float32").numpy()
    off = {name.replace(" ", "_"): round(_off(features.numpy(), right), 6) for name, features in found.items()}
    part.add(what="open_clip tower and projector", ok=off.get("device_float32", 0.0) < CLOSE, **off)


def _wishes(size: tuple[int, int], negative: str | None = "") -> list[Wish]:
    return [
        Wish(negative=negative, size=size, seed=1, steps=4),
        Wish("a 2nd", negative=negative, size=size, seed=2, steps=6, guidance=5.0),
        Wish("a blue square", negative=negative, size=size, seed=3, steps=3),
    ]


def _off(found: NDArray[Any], right: NDArray[Any]) -> float:
    return float(np.linalg.norm(found.astype(float) - right) / (np.linalg.norm(right.astype(float)) + 1e-12))


def _worst(found: list[NDArray[Any]], right: list[NDArray[Any]]) -> float:
    return round(max(map(_off, found, right)), 6)


def _levels(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> int:
    return int(np.abs(one.astype(int) - other.astype(int)).max())

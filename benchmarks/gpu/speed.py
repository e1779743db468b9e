"""How fast decoding and denoising are on the device: beside what its memory's bandwidth allows, and beside the libraries alone.

The floor of a decoding step is the time to read its weights and the keys and values once, at the bandwidth that a large copy reaches
here. Knows nothing of rightness.
"""

from __future__ import annotations

import random
from typing import Any

import torch

from benchmarks.gpu.checkpoints import QWEN, language_model, painter
from benchmarks.gpu.part import Part, median_seconds, synchronize
from benchmarks.gpu.right_llm import load
from benchmarks.llm.rows import started
from stages.llm.llm import Llm
from stages.llm.messages import Generate, Sampling
from stages.llm.settings import LlmSettings
from tests.stages.diffusion.painter import Painter, Wish

ROWS = (1, 16, 64)
PROMPT = 200
KV_BYTES = QWEN["layers"] * QWEN["kv_heads"] * (QWEN["hidden"] // QWEN["heads"]) * 2 * 2
"""Of a token, in bfloat16."""


def run(part: Part) -> None:
    with part.trying("decoding"):
        bandwidth = _bandwidth(part)
        llm = load(language_model(part), part.device, "bfloat16", LlmSettings(part.pick(64, 4), 1024, 2048))
        floors = _floors(part, bandwidth)
        _decoding(part, llm, floors, "replayed" if llm._forward._recorded is not None else "launched")
        if llm._forward._recorded is not None:
            llm._forward.forget_recorded()
            _decoding(part, llm, floors, "launched")
        _prefill(part, llm)
        _generating(part)
        del llm
    with part.trying("denoising"):
        _denoising(part)


def run_compiled(part: Part) -> None:
    with part.trying("compiled"):
        llm = load(language_model(part), part.device, "bfloat16", LlmSettings(part.pick(64, 4), 1024, 2048), compile=True)
        _decoding(part, llm, _floors(part, _bandwidth(part)), "compiled")


def _counts(part: Part) -> tuple[int, ...]:
    return ROWS if not part.quick else (1, 4)


def _bandwidth(part: Part) -> float:
    """Bytes read and written a second."""
    source = torch.empty(part.pick(2**32, 2**20), dtype=torch.uint8, device=part.device)
    target = torch.empty_like(source)
    seconds = median_seconds(part.device, lambda: target.copy_(source), 5)
    found = 2 * source.numel() / seconds
    part.add(what="bandwidth", gb_per_s=round(found / 1e9))
    return found


def _floors(part: Part, bandwidth: float) -> dict[int, float]:
    hidden, layer = QWEN["hidden"], QWEN["inner"] * QWEN["hidden"] * 3
    attention = 2 * hidden * hidden + 2 * hidden * QWEN["kv_heads"] * hidden // QWEN["heads"]
    weights = 2 * (QWEN["layers"] * (layer + attention) + QWEN["vocab"] * hidden)
    return {count: (weights + count * PROMPT * KV_BYTES) / bandwidth for count in _counts(part)}


def _decoding(part: Part, llm: Llm, floors: dict[int, float], how: str) -> None:
    draw = random.Random(1)
    for count in _counts(part):
        rows = [
            started(
                llm, Generate(tuple(draw.choices(range(1000), k=PROMPT)), Sampling(800, temperature=1.0, top_p=0.9, seed=1))
            )
            for _ in range(count)
        ]
        while any(row.num_waiting for row in rows):
            llm.step(rows)
        seconds = median_seconds(part.device, lambda rows=rows: llm.step(rows), part.pick(40, 2))  # type: ignore[misc]
        for row in rows:
            llm.finish(row)
        part.add(
            what="decoding",
            side=how,
            rows=count,
            ms=round(1000 * seconds, 3),
            tokens_per_s=round(count / seconds),
            floor_ms=round(1000 * floors[count], 3),
            of_floor=round(floors[count] / seconds, 3),
        )


def _prefill(part: Part, llm: Llm) -> None:
    draw, length = random.Random(2), part.pick(1000, 60)

    def once() -> None:
        row = started(llm, Generate(tuple(draw.choices(range(1000), k=length)), Sampling(1, temperature=0.0)))
        while row.num_waiting:
            llm.step([row])
        llm.finish(row)

    seconds = median_seconds(part.device, once, 5)
    part.add(what="prompt", tokens=length, ms=round(1000 * seconds, 2), tokens_per_s=round(length / seconds))


def _generating(part: Part) -> None:
    """The library's own `generate`: all rows begin and end together, greedy."""
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(language_model(part), dtype=torch.bfloat16).eval().to(part.device)
    for count in _counts(part):
        ids = torch.randint(0, 1000, (count, PROMPT), device=part.device)

        def once(num_tokens: int, ids: torch.Tensor = ids) -> float:
            return median_seconds(
                part.device,
                lambda: model.generate(
                    ids,
                    attention_mask=torch.ones_like(ids),
                    max_new_tokens=num_tokens,
                    min_new_tokens=num_tokens,
                    do_sample=False,
                ),
                1,
            )

        most = part.pick(33, 5)
        seconds = (once(most) - once(1)) / (most - 1)
        part.add(
            what="decoding", side="generate", rows=count, ms=round(1000 * seconds, 3), tokens_per_s=round(count / seconds)
        )


def _denoising(part: Part) -> None:
    """Steps of so many guided rows, and the library's U-Net over as many inputs."""
    from stages.checkpoints.checkpoint import LoadOptions

    made = Painter.load(painter(part), LoadOptions(device=part.device, dtype="float16"))
    side = part.pick(1024, 32)
    for count in (1, 2, 4, 8) if not part.quick else (1, 2):
        rows = [made.start(Wish(seed=seed, steps=40, size=(side, side))) for seed in range(count)]
        seconds = median_seconds(part.device, lambda rows=rows: made.denoiser.step(rows), part.pick(6, 1))  # type: ignore[misc]
        unet = made.denoiser._backbone._unet  # type: ignore[attr-defined]
        inputs = torch.cat([rows[0].latents] * (2 * count)).to(unet.dtype)
        condition = {name: torch.stack([value] * (2 * count)) for name, value in rows[0].condition.items()}
        states = condition.pop("encoder_hidden_states")
        times = torch.full((2 * count,), 500.0, device=part.device)

        def plain(
            unet: Any = unet, inputs: Any = inputs, times: Any = times, states: Any = states, more: Any = condition
        ) -> None:
            with torch.inference_mode():
                unet.call(inputs, times, encoder_hidden_states=states, added_cond_kwargs=more, return_dict=False)

        alone = median_seconds(part.device, plain, part.pick(6, 1))
        for row in rows:
            made.denoiser.finish(row)
        synchronize(part.device)
        part.add(
            what="denoising",
            side=f"{side}x{side}, guided",
            rows=count,
            ms=round(1000 * seconds, 2),
            unet_alone_ms=round(1000 * alone, 2),
            of_unet=round(alone / seconds, 3),
            images_steps_per_s=round(count / seconds, 2),
        )

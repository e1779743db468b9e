"""What a stage is given to be measured: payloads like those that pipelines send, for each kind of stage, at several amounts.

Decides which batches and steps are tried. Knows the messages of every kind, and no clock.
"""

import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from stages.checkpoints.checkpoint import Checkpoint, resolve
from stages.contract.errors import ConfigurationError
from stages.contract.recipe import NO_INPUTS, Inputs, Recipe
from stages.contract.result import Result
from stages.diffusion.checkpoint.checkpoint_parts import SETTINGS
from stages.diffusion.families.describe import PainterInfo
from stages.diffusion.families.families import describe
from stages.diffusion.messages import (
    DecodeLatents,
    Denoise,
    EncodePrompt,
    EncodeToLatents,
    Latents,
    PromptEmbedding,
)
from stages.host.kinds.registry import StageSpec, load
from stages.images.image import encode
from stages.llm.messages import Generate, Sampling
from stages.llm.settings import LlmSettings
from stages.vision.messages import EmbedInput, EncodeImage

PROMPT = "A lighthouse on a rocky coast at dusk, its lamp lit, waves breaking below"
PHOTO = (640, 480)
ANSWER_TOKENS = 16
DECODE_PROMPT_TOKENS = 32
STEPS = 8
_MAX_PIXELS = 2**40


@dataclass(frozen=True, slots=True)
class Sample:
    """Payloads that share a batch, or the steps of their rows, and the results that they need. `next`: other ones, as much; where the
    same again would be found half done (an LLM's slots hold what they read)."""

    next: Callable[[], Sequence[Any]]
    inputs: Inputs = NO_INPUTS


def samples_of(spec: StageSpec, size: tuple[int, int] | None = None) -> Iterator[Sample]:
    """From few rows to as many as a batch holds. `size`: of a painting, width and height (None: the checkpoint's own). What a stage needs
    of another is made by that one, loaded for as long. Raises `ConfigurationError` for a kind that nobody can measure."""
    made = _KINDS.get(spec.kind)
    if made is None:
        raise ConfigurationError(f"{spec.name}: a {spec.kind} can't be measured; those that can: {', '.join(_KINDS)}")
    return made(spec, size)


def row_counts(most: int) -> list[int]:
    """1, 2, 4 and so on, and the most."""
    return sorted({*(2**power for power in range(most.bit_length())), most})


def _same(make: Callable[[int], Any], counts: Iterable[int], inputs: Inputs = NO_INPUTS) -> Iterator[Sample]:
    for count in counts:
        payloads = [make(number) for number in range(count)]
        yield Sample(lambda payloads=payloads: payloads, inputs)  # type: ignore[misc]


def _photo(size: tuple[int, int] = PHOTO) -> bytes:
    """Half of it noise: what a codec makes of it is neither the least nor the most."""
    pixels = np.random.default_rng(1).integers(0, 256, (size[1], size[0], 3), np.uint8)
    pixels[: size[1] // 2] = 127
    return encode(pixels, "jpeg")


def _of_images(spec: StageSpec, size: tuple[int, int] | None) -> Iterator[Sample]:
    payload = EncodeImage(_photo(), _MAX_PIXELS)
    return _same(lambda number: payload, row_counts(spec.batch.max_items))


def _of_embeddings(spec: StageSpec, size: tuple[int, int] | None) -> Iterator[Sample]:
    photo = _photo()
    yield from _same(lambda number: EmbedInput(text=PROMPT), row_counts(spec.batch.max_items))
    yield from _same(lambda number: EmbedInput(image=photo, max_pixels=_MAX_PIXELS), row_counts(spec.batch.max_items))


def _of_prompts(spec: StageSpec, size: tuple[int, int] | None) -> Iterator[Sample]:
    return _same(lambda number: EncodePrompt(f"{number} {PROMPT}"), row_counts(spec.batch.max_items))


def _of_pixels(spec: StageSpec, size: tuple[int, int] | None) -> Iterator[Sample]:
    info = _info(spec)
    for width, height in _sizes(info, size):
        photo = _photo((width, height))
        payload = EncodeToLatents(photo, width, height, _MAX_PIXELS)
        yield from _same(lambda number, payload=payload: payload, row_counts(spec.batch.max_items))  # type: ignore[misc]


def _of_latents(spec: StageSpec, size: tuple[int, int] | None) -> Iterator[Sample]:
    info, noise = _info(spec), np.random.default_rng(1)
    for width, height in _sizes(info, size):
        shape = info.latent_channels, height // info.latent_factor, width // info.latent_factor
        payload = DecodeLatents(Latents(noise.standard_normal(shape, np.float32)))
        yield from _same(lambda number, payload=payload: payload, row_counts(spec.batch.max_items))  # type: ignore[misc]


def _of_paintings(spec: StageSpec, size: tuple[int, int] | None) -> Iterator[Sample]:
    info = _info(spec)
    recipe: Recipe[PromptEmbedding] = Recipe("prompt", "", EncodePrompt(PROMPT))
    inputs = Inputs({recipe.name: _embedded(spec, EncodePrompt(PROMPT))})
    negative = recipe if info.negative_prompts else None
    steps = min(STEPS, info.max_steps)
    for width, height in _sizes(info, size):

        def painting(seed: int, width: int = width, height: int = height) -> Denoise:
            return Denoise(recipe, negative, width, height, steps, 4.0, seed)

        yield from _same(painting, row_counts(spec.batch.max_items), inputs)


def _of_answers(spec: StageSpec, size: tuple[int, int] | None) -> Iterator[Sample]:
    """Steps that write with so many rows, and steps that read so many tokens of a prompt."""
    settings = spec.settings
    if not isinstance(settings, LlmSettings):
        raise ConfigurationError(f"{spec.name}: an llm needs num_slots, max_context_tokens and prefill_chunk_tokens")
    draw, room = random.Random(1), settings.max_context_tokens
    chunk = min(settings.prefill_chunk_tokens, room - 1)

    def sample(count: int, num_prompt: int, num_answer: int) -> Sample:
        def payloads() -> list[Generate]:
            return [
                Generate(tuple(draw.choices(_TOKENS, k=num_prompt)), Sampling(num_answer, temperature=0)) for _ in range(count)
            ]

        return Sample(payloads)

    answer = min(ANSWER_TOKENS, room // 2)
    for count in row_counts(settings.num_slots):
        yield sample(count, min(DECODE_PROMPT_TOKENS, room - answer), answer)
    for share in (4, 2, 1):
        yield sample(1, max(1, chunk // share), 1)
    yield sample(settings.num_slots, max(1, min(2 * chunk, room - 1)), 1)


_TOKENS = range(10, 250)
"""Any vocabulary has them, and they end no answer, as a rule."""

_KINDS: Mapping[str, Callable[[StageSpec, tuple[int, int] | None], Iterator[Sample]]] = {
    "llm": _of_answers,
    "vision_encoder": _of_images,
    "embedder": _of_embeddings,
    "text_encoder": _of_prompts,
    "denoiser": _of_paintings,
    "vae_decoder": _of_latents,
    "vae_encoder": _of_pixels,
}


def _info(spec: StageSpec) -> PainterInfo:
    checkpoint: Checkpoint = resolve(spec.source, SETTINGS)
    return describe(checkpoint)


def _sizes(info: PainterInfo, size: tuple[int, int] | None) -> list[tuple[int, int]]:
    """The one that is asked for, and half of each side, as far as the checkpoint paints that."""
    width, height = size or info.default_size
    unit = info.size_multiple
    half = max(unit, width // 2 // unit * unit), max(unit, height // 2 // unit * unit)
    return list(dict.fromkeys([half, (width, height)]))


def _embedded(denoiser: StageSpec, prompt: EncodePrompt) -> Result:
    """By the text encoder of the same checkpoint."""
    stage: Any = load(replace(denoiser, name=f"{denoiser.name}'s text encoder", kind="text_encoder", deployed=None)).stage
    found: Result = stage.run([stage.prepare(prompt, NO_INPUTS)])[0]
    return found

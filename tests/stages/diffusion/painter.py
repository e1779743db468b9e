"""The stages chained by hand, as a pipeline and its hosts would chain them, and the library's own pipeline beside them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from stages.checkpoints.checkpoint import Checkpoint, LoadOptions, Source
from stages.contract.recipe import NO_INPUTS, Inputs, Recipe
from stages.contract.result import Result
from stages.diffusion.denoise_row import DenoiseRow, PreparedDenoise
from stages.diffusion.denoiser import Denoiser
from stages.diffusion.families.families import describe
from stages.diffusion.messages import DecodeLatents, Denoise, DenoiseEnd, EncodePrompt, Latents, PromptEmbedding
from stages.diffusion.text_encoder import TextEncoder
from stages.diffusion.vae import VaeDecoder


def checkpoint_of(folder: Path) -> Checkpoint:
    return Checkpoint(Source(folder=str(folder)), folder)


@dataclass(frozen=True, slots=True)
class Wish:
    """A request to paint, in words."""

    prompt: str = "a red circle"
    negative: str | None = ""
    steps: int = 4
    guidance: float = 3.0
    seed: int = 1
    sampler: str | None = None
    size: tuple[int, int] = (32, 32)
    previews: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Task:
    """A denoiser's payload, and the results that its recipes ask for."""

    payload: Denoise
    inputs: Inputs

    @classmethod
    def of(
        cls,
        prompt: PromptEmbedding,
        negative: PromptEmbedding | None = None,
        init: Latents | None = None,
        **settings: Any,
    ) -> Self:
        """From results that are at hand; `settings`: of `Denoise`, over those of a `Wish`."""
        results = {"prompt": prompt, "negative": negative, "init": init}
        at_hand: dict[str, Result] = {name: result for name, result in results.items() if result is not None}
        recipes: dict[str, Any] = {name: Recipe(name, "painter.stage", EncodePrompt("")) for name in at_hand}
        usual: dict[str, Any] = {"width": 32, "height": 32, "steps": 4, "guidance_scale": 3.0, "seed": 1}
        return cls(Denoise(**({"negative": None} | usual | recipes | settings)), Inputs(at_hand))

    def but(self, init: Latents | None = None, **changes: Any) -> "Task":
        """The same with other settings; `init`: another image to begin with."""
        if init is None:
            return replace(self, payload=replace(self.payload, **changes))
        recipe: Recipe[Latents] = Recipe("init", "painter.vae_encoder", EncodePrompt(""))
        return Task(replace(self.payload, init=recipe, **changes), self.inputs.with_more(Inputs({"init": init})))


@dataclass(frozen=True, slots=True)
class Painter:
    text_encoder: TextEncoder
    denoiser: Denoiser
    decoder: VaeDecoder

    @classmethod
    def load(cls, folder: Path, options: LoadOptions | None = None) -> Self:
        checkpoint, options = checkpoint_of(folder), options or LoadOptions()
        return cls(
            TextEncoder.load(checkpoint, options), Denoiser.load(checkpoint, options), VaeDecoder.load(checkpoint, options)
        )

    def encode(self, *texts: str) -> Sequence[PromptEmbedding]:
        return self.encode_all(*(EncodePrompt(text) for text in texts))

    def encode_all(self, *prompts: EncodePrompt) -> Sequence[PromptEmbedding]:
        return self.text_encoder.run([self.text_encoder.prepare(prompt, NO_INPUTS) for prompt in prompts])

    def task(self, wish: Wish) -> Task:
        return Task.of(
            self.encode(wish.prompt)[0],
            None if wish.negative is None else self.encode(wish.negative)[0],
            width=wish.size[0],
            height=wish.size[1],
            steps=wish.steps,
            guidance_scale=wish.guidance,
            seed=wish.seed,
            sampler=wish.sampler,
            preview_steps=wish.previews,
        )

    def prepare(self, task: Task) -> PreparedDenoise:
        """As an engine does: only what `check` has passed is prepared."""
        self.denoiser.check(task.payload)
        return self.denoiser.prepare(task.payload, task.inputs)

    def start(self, wish: Wish | Task) -> DenoiseRow:
        task = self.task(wish) if isinstance(wish, Wish) else wish
        return self.denoiser.start(task.payload, self.prepare(task))

    def latents(self, wish: Wish) -> NDArray[np.float32]:
        """Painted alone."""
        return paint_rows(self.denoiser, {0: self.start(wish)})[0]

    def pixels(self, latents: Sequence[NDArray[np.float32]]) -> list[NDArray[np.uint8]]:
        items = [self.decoder.prepare(DecodeLatents(Latents(one)), NO_INPUTS) for one in latents]
        return [result.pixels for result in self.decoder.run(items)]


def paint_rows(denoiser: Denoiser, rows: Mapping[int, DenoiseRow]) -> dict[int, NDArray[np.float32]]:
    """Steps all rows together until each is done."""
    running, finished = dict(rows), dict[int, NDArray[np.float32]]()
    while running:
        for key, latents in step_once(denoiser, running).items():
            finished[key] = latents
            denoiser.finish(running.pop(key))
    return finished


def step_once(denoiser: Denoiser, rows: Mapping[int, DenoiseRow]) -> dict[int, NDArray[np.float32]]:
    """One step of all rows; the latents of those that are done."""
    finished = {}
    for key, stepped in zip(rows, denoiser.step(list(rows.values())), strict=True):
        if stepped.error is not None:
            raise stepped.error
        if stepped.done:
            end = stepped.events[-1]
            if not isinstance(end, DenoiseEnd):
                raise TypeError(f"the last event is {end}")
            finished[key] = end.latents.latents
    return finished


@dataclass(frozen=True, slots=True)
class Oracle:
    """The library's pipeline on the same checkpoint."""

    pipeline: Any
    takes_negative: bool = True

    def run(self, wish: Wish, output_type: str, **more: Any) -> NDArray[Any]:
        width, height = wish.size
        guidance = 1.0 if self.takes_negative and wish.negative is None else wish.guidance
        settings = {"guidance_scale": guidance} | ({"negative_prompt": wish.negative} if self.takes_negative else {}) | more
        result = self.pipeline(
            wish.prompt,
            num_inference_steps=wish.steps,
            generator=torch.Generator("cpu").manual_seed(wish.seed),
            width=width,
            height=height,
            output_type=output_type,
            **settings,
        ).images[0]
        return result.numpy() if isinstance(result, torch.Tensor) else np.asarray(result)

    def latents(self, wish: Wish) -> NDArray[np.float32]:
        return self.run(wish, "latent")

    def without_negative(self, wish: Wish) -> NDArray[np.float32]:
        """Guided, but with no negative prompt given at all."""
        return self.run(wish, "latent", negative_prompt=None)

    def images(self, wish: Wish) -> NDArray[np.float32]:
        """[height, width, 3], 0 to 1, before rounding."""
        return self.run(wish, "np")

    def pixels(self, wish: Wish) -> NDArray[np.uint8]:
        return self.run(wish, "pil")


def oracle_of(folder: Path) -> Oracle:
    from diffusers import DiffusionPipeline

    index = json.loads((folder / "model_index.json").read_text())
    absent = {name: None for name, entry in index.items() if entry == [None, None]}
    pipeline = DiffusionPipeline.from_pretrained(folder, dtype=torch.float32, **absent)
    pipeline.set_progress_bar_config(disable=True)
    return Oracle(pipeline, takes_negative=describe(checkpoint_of(folder)).negative_prompts)

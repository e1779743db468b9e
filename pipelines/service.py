"""Everything that is served, behind the one seam that the HTTP surface knows (`pipelines.jobs.Service`).

Decides which pipeline a model id means. Reads tokenizers and configuration files, never weights; knows no HTTP. How stages are
reached (`StageClient`) and who tells about them (`StageDirectory`) is handed in, so that the same service stands in one process
and on a cluster.
"""

import time
from collections.abc import Sequence
from typing import Protocol, TypeVar

from cache.keys import name
from pipelines.agreement import AgreeingClient
from pipelines.client import StageClient
from pipelines.complete import CompletionPipeline
from pipelines.embed import ClipEmbedPipeline
from pipelines.image_text import ImageTextPipeline
from pipelines.jobs import ChatPipeline, EmbedPipeline, ModelCard, PaintPipeline, StageCard, TextPipeline
from pipelines.prompts.prompt import PromptBuilder
from pipelines.rules.paint_rules import PaintRules
from pipelines.rules.sampling_defaults import sampling_defaults
from pipelines.settings.derived import default_max_tokens, prefill_chunk_tokens
from pipelines.settings.schema.config import AppConfig, EmbedModel, ImageTextModel, ModelConfig, TextToImageModel
from pipelines.settings.serve.specs import stage_specs
from pipelines.text_to_image import TextToImagePipeline
from pipelines.threads import Threads
from pipelines.tools.dialect import Dialect
from stages.checkpoints.checkpoint import resolve
from stages.checkpoints.input_versions import input_versions
from stages.contract.errors import InvalidRequest, UnknownModel
from stages.contract.item import StageMetrics
from stages.diffusion.checkpoint.checkpoint_parts import SETTINGS
from stages.diffusion.families.families import describe
from stages.diffusion.prompt_lengths import PromptLengths
from stages.diffusion.work import PaintingWork
from stages.host.kinds.registry import PROJECTOR_FILES, StageSpec, part_files
from stages.llm.messages import Sampling
from stages.vision.work import EmbeddingWork

NAMED = ("vision_encoder", "embedder", "text_encoder", "vae_encoder", "vae_decoder")
"""Kinds of stage whose results pipelines name."""
UNREAD = ("vae_decoder",)
"""Kinds of whose files nothing is read here, unless finished images are remembered."""

T = TypeVar("T")


class StageDirectory(Protocol):
    """Who knows how the stages are doing."""

    async def cards(self) -> Sequence[StageCard]: ...

    async def metrics(self) -> Sequence[StageMetrics]: ...


class Triptych:
    """Implements `pipelines.jobs.Service` over a configuration."""

    def __init__(self, config: AppConfig, client: StageClient, directory: StageDirectory, threads: Threads) -> None:
        self._config, self._directory, self._threads = config, directory, threads
        self._specs = stage_specs(config)
        self._made_for = {name: _read_of(spec) for name, spec in self._specs.items() if self._is_read(spec)}
        self._clients = {model_id: self._agreeing(client, model_id) for model_id in config.models}
        self._chat: dict[str, ChatPipeline] = {}
        self._texts: dict[str, TextPipeline] = {}
        self._paint: dict[str, PaintPipeline] = {}
        self._embed: dict[str, EmbedPipeline] = {}
        created = int(time.time())
        self._cards = [self._add(model_id, model, created) for model_id, model in config.models.items()]

    def models(self) -> Sequence[ModelCard]:
        return self._cards

    def chat_pipeline(self, model: str) -> ChatPipeline:
        return self._find(model, self._chat, "answer chat requests")

    def text_pipeline(self, model: str) -> TextPipeline:
        return self._find(model, self._texts, "complete texts")

    def paint_pipeline(self, model: str) -> PaintPipeline:
        return self._find(model, self._paint, "paint images")

    def embed_pipeline(self, model: str) -> EmbedPipeline:
        return self._find(model, self._embed, "embed")

    async def stage_cards(self) -> Sequence[StageCard]:
        return await self._directory.cards()

    async def stage_metrics(self) -> Sequence[StageMetrics]:
        return await self._directory.metrics()

    def _is_read(self, spec: StageSpec) -> bool:
        model = self._config.models[spec.name.rpartition(".")[0]]
        return spec.kind not in UNREAD or (isinstance(model, TextToImageModel) and model.remember_images)

    def _find(self, model: str, pipelines: dict[str, T], what: str) -> T:
        if model in pipelines:
            return pipelines[model]
        able = ", ".join(pipelines) or "none"
        if model in self._config.models:
            raise InvalidRequest(f"model {model!r} does not {what}; models that do: {able}", param="model")
        raise UnknownModel(f"model {model!r} is not served; models that {what}: {able}", param="model")

    def _add(self, model_id: str, model: ModelConfig, created: int) -> ModelCard:
        stages = tuple(f"{model_id}.{part}" for part in model.parts())
        match model:
            case ImageTextModel():
                defaults = self._sampling_defaults(self._specs[f"{model_id}.llm"])
                dialect = self._add_language(model_id, model)
                return ModelCard(
                    model_id,
                    "image_text",
                    stages,
                    created,
                    model.llm.max_context_tokens,
                    accepts_images=model.vision_encoder is not None,
                    sampling=defaults,
                    tool_choices=dialect.choices,
                )
            case TextToImageModel():
                rules = PaintRules.of(model_id, model, describe(resolve(self._specs[f"{model_id}.denoiser"].source, SETTINGS)))
                self._paint[model_id] = self._painter(model_id, model, rules)
                return _paint_card(model_id, stages, created, rules, edits=model.vae_encoder is not None)
            case EmbedModel():
                fingerprint, max_pixels = self._named(f"{model_id}.embedder"), self._config.limits.image_pixels
                spec = self._specs[f"{model_id}.embedder"]
                self._embed[model_id] = ClipEmbedPipeline(
                    model_id,
                    self._clients[model_id],
                    EmbeddingWork.load(resolve(spec.source, part_files(spec).without_weights())),
                    threads=self._threads,
                    fingerprint=fingerprint,
                    max_pixels=max_pixels,
                )
                return ModelCard(model_id, "embed", stages, created)

    def _named(self, stage: str) -> str:
        """The name of what a stage computes with: weights and settings files; and of what this process does to its input. The same
        on every machine with the same versions. The dtype that a replica computes in is added there."""
        spec: StageSpec = self._specs[stage]
        return name("stage", weights=self._made_for[stage], part=spec.kind, loader=spec.loader, versions=input_versions())

    def _agreeing(self, client: StageClient, model_id: str) -> StageClient:
        stages = (f"{model_id}.{part}" for part in self._config.models[model_id].parts())
        return AgreeingClient(client, {stage: self._made_for[stage] for stage in stages if stage in self._made_for})

    def _sampling_defaults(self, llm: StageSpec) -> Sampling:
        checkpoint = resolve(llm.source, part_files(llm).without_weights())
        return sampling_defaults(checkpoint, default_max_tokens(self._config.limits), self._config.limits.max_tokens)

    def _add_language(self, model_id: str, model: ImageTextModel) -> Dialect:
        """What chats completes plain texts, too, with the same tokenizer. Returns how it calls functions."""
        llm = self._specs[f"{model_id}.llm"]
        vision = self._specs.get(f"{model_id}.vision_encoder")
        projector = vision.projector if vision is not None else None
        prompts = PromptBuilder.load(
            resolve(llm.source, part_files(llm).without_weights()),
            projector=resolve(projector, PROJECTOR_FILES.without_weights()) if projector is not None else None,
            max_tokens=model.llm.max_context_tokens,
            tools=model.tools,
            thoughts=model.thoughts,
        )
        client, limit, chunk = self._clients[model_id], model.llm.max_context_tokens, prefill_chunk_tokens(model.llm)
        self._chat[model_id] = ImageTextPipeline(
            model_id,
            client,
            prompts,
            threads=self._threads,
            vision_fingerprint=self._named(f"{model_id}.vision_encoder") if vision is not None else None,
            max_pixels=self._config.limits.image_pixels,
            max_context_tokens=limit,
            chunk_tokens=chunk,
        )
        self._texts[model_id] = CompletionPipeline(
            model_id, client, prompts.plain(), threads=self._threads, max_context_tokens=limit, chunk_tokens=chunk
        )
        return prompts.dialect

    def _painter(self, model_id: str, model: TextToImageModel, rules: PaintRules) -> TextToImagePipeline:
        text = self._specs[f"{model_id}.text_encoder"]
        return TextToImagePipeline(
            model_id,
            self._clients[model_id],
            rules,
            PromptLengths.load(resolve(text.source, part_files(text).without_weights())),
            PaintingWork.load(resolve(self._specs[f"{model_id}.denoiser"].source, SETTINGS)),
            threads=self._threads,
            text_fingerprint=self._named(f"{model_id}.text_encoder"),
            vae_fingerprint=self._named(f"{model_id}.vae_encoder") if model.vae_encoder is not None else None,
            max_image_pixels=self._config.limits.image_pixels,
            keep_steps=model.keep_steps,
            decoder_fingerprint=self._named(f"{model_id}.vae_decoder") if model.remember_images else None,
        )


def _read_of(spec: StageSpec) -> str:
    """A digest of the files that this process depends on: where it names results, of all; else of those that it reads. Raises
    `ConfigurationError` where they are not what was deployed."""
    if spec.kind in NAMED and spec.deployed is None:
        return spec.whole()
    read = spec.settings_read()
    return spec.deployed.whole if spec.kind in NAMED and spec.deployed is not None else read


def _paint_card(model_id: str, stages: tuple[str, ...], created: int, rules: PaintRules, *, edits: bool) -> ModelCard:
    return ModelCard(
        model_id,
        "text_to_image",
        stages,
        created,
        sizes=rules.sizes,
        size_multiple=rules.size_multiple,
        default_steps=rules.default_steps,
        max_steps=rules.max_steps,
        default_guidance_scale=rules.default_guidance_scale,
        default_strength=rules.default_strength if edits else None,
        samplers=rules.samplers,
        max_prompt_tokens=rules.max_prompt_tokens,
        accepts_images=edits,
    )

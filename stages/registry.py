"""From a stage's description to the loaded stage: which class serves which kind of part and loader.

Decides nothing else. Model libraries are imported only when a stage that needs them is loaded, so that a process that hosts a
text encoder never imports open_clip.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from stages.checkpoint import Checkpoint, LoadOptions, Source, resolve
from stages.device_memory import free_bytes
from stages.errors import ConfigurationError
from stages.health import MAX_STEP_S
from stages.memory_estimate import Slots, estimate, refuse_if_too_large
from stages.openmp import on_passing_thread
from stages.scheduler import BatchLimits, QueueLimits
from stages.stage import IterativeStage, OneShotStage


class StageKind(StrEnum):
    VISION_ENCODER = "vision_encoder"
    LLM = "llm"
    TEXT_ENCODER = "text_encoder"
    DENOISER = "denoiser"
    VAE_DECODER = "vae_decoder"
    VAE_ENCODER = "vae_encoder"
    EMBEDDER = "embedder"


@dataclass(frozen=True, slots=True)
class LlmOptions:
    num_slots: int
    max_context_tokens: int
    prefill_chunk_tokens: int


@dataclass(frozen=True, slots=True)
class StageSpec:
    """All that a process must know to load and run one stage."""

    name: str
    kind: StageKind
    loader: str
    source: Source
    options: LoadOptions
    batch: BatchLimits
    queue: QueueLimits
    max_step_s: float = MAX_STEP_S
    projector: Source | None = None
    llm: LlmOptions | None = None

    def fingerprint(self) -> str:
        """Hex digest of the weights and settings files that this part is loaded from."""
        whole = resolve(self.source).fingerprint(part_patterns(self))
        if self.projector is None:
            return whole
        return whole + resolve(self.projector).fingerprint()


def part_patterns(spec: StageSpec) -> Sequence[str]:
    """Which files of the checkpoint make this part."""
    if spec.loader == "diffusers":
        from stages.diffusion.checkpoint_parts import part_patterns as of_diffusers

        return of_diffusers(spec.kind.value)
    return ("*.safetensors", "*.bin", "*.gguf", "*.json", "*.txt", "*.model", "*.jinja")


def load(spec: StageSpec) -> OneShotStage[Any, Any] | IterativeStage[Any, Any]:
    """Loads the part's weights onto its device. Raises `ConfigurationError` where source and loader don't fit."""
    return on_passing_thread(lambda: _loaded(spec))


def _loaded(spec: StageSpec) -> OneShotStage[Any, Any] | IterativeStage[Any, Any]:
    checkpoint, options = resolve(spec.source), _on_device(spec.options)
    _refuse_if_too_large(spec, checkpoint, options)
    match spec.kind, spec.loader:
        case StageKind.LLM, "transformers":
            return _load_llm(spec, checkpoint, options)
        case StageKind.VISION_ENCODER, "open_clip" | "transformers":
            return _load_vision(spec, checkpoint, options)
        case StageKind.EMBEDDER, "open_clip":
            from stages.vision.clip_embedder import ClipEmbedder

            return ClipEmbedder.load(checkpoint, options)
        case ((StageKind.TEXT_ENCODER | StageKind.DENOISER | StageKind.VAE_DECODER | StageKind.VAE_ENCODER), "diffusers"):
            return _load_diffusion(spec.kind, checkpoint, options)
    raise ConfigurationError(f"{spec.name}: loader {spec.loader!r} cannot load a {spec.kind}")


def _refuse_if_too_large(spec: StageSpec, checkpoint: Checkpoint, options: LoadOptions) -> None:
    llm = spec.llm
    slots = None if llm is None else Slots(llm.num_slots, llm.max_context_tokens, llm.prefill_chunk_tokens)
    needed = estimate(checkpoint.folder, spec.kind.value, spec.loader, options.dtype, slots)
    refuse_if_too_large(spec.name, needed, free_bytes(options.device), options.device, slots)


def _on_device(options: LoadOptions) -> LoadOptions:
    """ "auto" is the GPU that the cluster gave this process, or else the CPU."""
    if options.device != "auto":
        return options
    import torch

    return replace(options, device="cuda" if torch.cuda.is_available() else "cpu")


def _load_llm(spec: StageSpec, checkpoint: Checkpoint, options: LoadOptions) -> IterativeStage[Any, Any]:
    from stages.llm.llm import Llm, LlmSettings

    if spec.llm is None:
        raise ConfigurationError(f"{spec.name}: an llm needs num_slots, max_context_tokens and prefill_chunk_tokens")
    settings = LlmSettings(spec.llm.num_slots, spec.llm.max_context_tokens, spec.llm.prefill_chunk_tokens)
    return Llm.load(checkpoint, options, settings)


def _load_vision(spec: StageSpec, checkpoint: Checkpoint, options: LoadOptions) -> OneShotStage[Any, Any]:
    if spec.loader == "open_clip":
        from stages.vision.open_clip_encoder import OpenClipEncoder

        if spec.projector is None:
            raise ConfigurationError(f"{spec.name}: an open_clip tower needs a projector")
        return OpenClipEncoder.load(checkpoint, resolve(spec.projector), options)
    from stages.vision.vlm_encoder import VlmEncoder

    return VlmEncoder.load(checkpoint, options)


def _load_diffusion(kind: StageKind, checkpoint: Checkpoint, options: LoadOptions) -> Any:
    from stages.diffusion.denoiser import Denoiser
    from stages.diffusion.text_encoder import TextEncoder
    from stages.diffusion.vae import VaeDecoder, VaeEncoder

    if kind is StageKind.TEXT_ENCODER:
        return TextEncoder.load(checkpoint, options)
    if kind is StageKind.DENOISER:
        return Denoiser.load(checkpoint, options)
    if kind is StageKind.VAE_ENCODER:
        return VaeEncoder.load(checkpoint, options)
    return VaeDecoder.load(checkpoint, options)

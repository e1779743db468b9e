"""From a stage's description to the loaded stage: which class serves which kind of part and loader.

Decides nothing else. Model libraries are imported only when a stage that needs them is loaded, so that a process that hosts a
text encoder never imports open_clip.
"""

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from stages.checkpoints.checkpoint import Checkpoint, LoadOptions, Source, fingerprint, resolve
from stages.checkpoints.memory_estimate import Slots, estimate, refuse_if_too_large
from stages.checkpoints.part_files import TEXT_SETTINGS, TRANSFORMERS_WEIGHTS, WHOLE_MODEL, PartFiles, Weights
from stages.checkpoints.safetensors_headers import stored_dtype
from stages.contract.errors import ConfigurationError
from stages.contract.stage import IterativeStage, OneShotStage
from stages.device.device_memory import free_bytes
from stages.device.dtypes import AUTO, choose_dtype
from stages.device.openmp import on_passing_thread
from stages.engine.health import MAX_STEP_S
from stages.engine.scheduler import BatchLimits, QueueLimits


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
        whole = fingerprint(self.source, part_files(self))
        if self.projector is None:
            return whole
        return whole + fingerprint(self.projector, PROJECTOR_FILES)


PROJECTOR_FILES = PartFiles(("config.json",), (Weights("", ("model.safetensors",)),))


def part_files(spec: StageSpec) -> PartFiles:
    """Which files of the checkpoint make this part. Raises `ConfigurationError`."""
    match spec.kind, spec.loader:
        case _, "diffusers":
            from stages.diffusion.checkpoint.checkpoint_parts import part_files as of_diffusers

            return of_diffusers(spec.kind.value)
        case StageKind.VISION_ENCODER, "open_clip":
            return PartFiles(("open_clip_config.json",), (Weights("", ("open_clip_model.safetensors",)),))
        case StageKind.EMBEDDER, "open_clip":
            files = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
            return PartFiles(TEXT_SETTINGS, (Weights("", files),))
        case StageKind.VISION_ENCODER, "transformers":
            from stages.vision.vlm_files import holds_seeing

            # The tokenizer too: the processor counts a picture's placeholders, and the encoder is held against that.
            return PartFiles(TEXT_SETTINGS, (Weights("", TRANSFORMERS_WEIGHTS),), holds_seeing)
        case StageKind.LLM, "transformers":
            from stages.vision.vlm_files import holds_speaking

            return PartFiles(TEXT_SETTINGS, (Weights("", TRANSFORMERS_WEIGHTS),), holds_speaking)
    return WHOLE_MODEL


@dataclass(frozen=True, slots=True)
class LoadedStage:
    """A part on its device. `dtype` is what it computes in: "float32", "bfloat16" or "float16"."""

    stage: OneShotStage[Any, Any] | IterativeStage[Any, Any]
    dtype: str


def load(spec: StageSpec) -> LoadedStage:
    """Loads the part's weights onto its device. Raises `ConfigurationError` where source and loader don't fit."""
    return on_passing_thread(lambda: _loaded(spec))


def _loaded(spec: StageSpec) -> LoadedStage:
    checkpoint = resolve(spec.source, part_files(spec))
    options = _in_dtype(spec, checkpoint, _on_device(spec.options))
    _refuse_if_too_large(spec, checkpoint, options)
    return LoadedStage(_load(spec, checkpoint, options), options.dtype)


def prepare(spec: StageSpec) -> None:
    """What loading the part will need on this machine's disk: its files, and of a GGUF file its unpacked form. Raises
    `ConfigurationError`."""
    checkpoint = resolve(spec.source, part_files(spec))
    if spec.projector is not None:
        resolve(spec.projector, PROJECTOR_FILES)
    if any(path.suffix == ".gguf" for path in checkpoint.files(part_files(spec))):
        from stages.llm.model.loading import load_language_model

        load_language_model(checkpoint, _in_dtype(spec, checkpoint, _on_device(spec.options)))


def _in_dtype(spec: StageSpec, checkpoint: Checkpoint, options: LoadOptions) -> LoadOptions:
    """The options with a dtype in place of "auto", and of one that the part can't be computed in."""
    if options.dtype == AUTO:
        stored = stored_dtype(checkpoint.files(part_files(spec)))
        options = replace(options, dtype=choose_dtype(options.device, stored, packed=spec.kind is StageKind.LLM))
    if spec.kind in (StageKind.VAE_DECODER, StageKind.VAE_ENCODER) and options.dtype == "float16":
        from stages.diffusion.vae import overflows_float16

        options = replace(options, dtype="float32") if overflows_float16(checkpoint) else options
    return options


def _load(spec: StageSpec, checkpoint: Checkpoint, options: LoadOptions) -> OneShotStage[Any, Any] | IterativeStage[Any, Any]:
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
    files = checkpoint.files(part_files(spec))
    needed = estimate(checkpoint.folder, files, spec.kind.value, spec.loader, options.dtype, slots)
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
        return OpenClipEncoder.load(checkpoint, resolve(spec.projector, PROJECTOR_FILES), options)
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

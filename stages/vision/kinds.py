"""The kinds of stage that see. Decides which files each loader reads; importing it loads no model library."""

from stages.checkpoints.part_files import TEXT_SETTINGS, TRANSFORMERS_WEIGHTS, PartFiles, Weights
from stages.checkpoints.stage_kind import Part, Stage, StageKind
from stages.contract.errors import ConfigurationError
from stages.vision.vlm.files import holds_seeing


def _clip_tower(part: Part) -> Stage:
    from stages.vision.clip.encoder import OpenClipEncoder

    if part.projector is None:
        raise ConfigurationError(f"{part.stage}: an open_clip tower needs a projector")
    return OpenClipEncoder.load(part.checkpoint, part.projector, part.options)


def _vlm_tower(part: Part) -> Stage:
    from stages.vision.vlm.encoder import VlmEncoder

    return VlmEncoder.load(part.checkpoint, part.options)


def _clip_embedder(part: Part) -> Stage:
    from stages.vision.clip.embedder import ClipEmbedder

    return ClipEmbedder.load(part.checkpoint, part.options)


_CLIP_WEIGHTS = "open_clip_model.safetensors"

KINDS = (
    StageKind(
        "vision_encoder",
        "open_clip",
        PartFiles(("open_clip_config.json",), (Weights("", (_CLIP_WEIGHTS,)),)),
        _clip_tower,
    ),
    StageKind(
        "vision_encoder",
        "transformers",
        # The tokenizer too: the processor counts an image's placeholders, and the encoder is held against that.
        PartFiles(TEXT_SETTINGS, (Weights("", TRANSFORMERS_WEIGHTS),), holds_seeing),
        _vlm_tower,
    ),
    StageKind(
        "embedder",
        "open_clip",
        PartFiles(TEXT_SETTINGS, (Weights("", (_CLIP_WEIGHTS, "open_clip_pytorch_model.bin")),)),
        _clip_embedder,
    ),
)

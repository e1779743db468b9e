"""The kind of stage that speaks. Its settings are `LlmSettings`; importing it loads no model library."""

from collections.abc import Sequence

from stages.checkpoints.memory_estimate import WIDTHS, Need, read_config
from stages.checkpoints.part_files import TEXT_SETTINGS, TRANSFORMERS_WEIGHTS, PartFiles, Weights
from stages.checkpoints.stage_kind import Part, Stage, StageKind
from stages.contract.errors import ConfigurationError
from stages.llm.settings import LlmSettings
from stages.llm.slot_memory import slot_bytes, step_bytes
from stages.vision.vlm.files import holds_speaking


def _llm(part: Part) -> Stage:
    from stages.llm.llm import Llm

    if not isinstance(part.settings, LlmSettings):
        raise ConfigurationError(f"{part.stage}: an llm needs num_slots, max_context_tokens and prefill_chunk_tokens")
    return Llm.load(part.checkpoint, part.options, part.settings)


def _needs(part: Part) -> Sequence[Need]:
    settings, config = part.settings, read_config(part.checkpoint.folder)
    text = config.get("text_config", config)
    if not isinstance(settings, LlmSettings) or "num_hidden_layers" not in text:
        return ()
    width = WIDTHS.get(part.options.dtype, 2)
    names = ("num_slots", "max_context_tokens", "prefill_chunk_tokens")
    slots = f"{settings.num_slots} slots of {settings.max_context_tokens} tokens"
    return Need(slots, slot_bytes(text, settings, width), names), Need("a step", step_bytes(text, settings, width), names)


def _unpacks(part: Part) -> None:
    if any(path.suffix == ".gguf" for path in part.files):
        from stages.llm.model.loading import load_language_model

        load_language_model(part.checkpoint, part.options)


KINDS = (
    StageKind(
        "llm",
        "transformers",
        PartFiles(TEXT_SETTINGS, (Weights("", TRANSFORMERS_WEIGHTS),), holds_speaking),
        _llm,
        needs=_needs,
        packs_layers=True,
        sizes_vary=True,
        unpacks=_unpacks,
    ),
)

"""A language model from a checkpoint, in any of the forms it comes in: a folder, a GGUF file, a part of a vision-language
model.

Decides which class loads it and whether its attention can be served from slots. Knows no requests.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.checkpoints.checkpoint import Checkpoint, LoadOptions
from stages.contract.errors import ConfigurationError
from stages.device.packed_linear import pack_linears
from stages.device.torchvision_shim import ensure_torchvision
from stages.llm.model.shared_keys import share_keys_on_cpu
from stages.llm.model.tokenizer import gguf_file, load_tokenizer
from stages.llm.model.unpacked import unpacked
from stages.llm.model.windows import LAYER_TYPES
from stages.vision.vlm.files import VLM_PARTS
from stages.vision.vlm.parts import load_speaking_part, pretrained_arguments


@dataclass(frozen=True, slots=True)
class LoadedLanguageModel:
    """`model` is a `transformers` model with a language modelling head, `tokenizer` a fast `transformers` tokenizer."""

    model: Any
    tokenizer: Any
    eos_tokens: frozenset[int]


def load_language_model(checkpoint: Checkpoint, options: LoadOptions, *, pack: bool = True) -> LoadedLanguageModel:
    """Reads the weights onto `options.device`; `pack`: linear layers as this CPU multiplies them, where it gains by that. Raises
    `ConfigurationError` for a checkpoint that can't be served."""
    ensure_torchvision()
    share_keys_on_cpu()
    tokenizer = load_tokenizer(checkpoint.folder)
    try:
        model = _load_model(checkpoint.folder, options)
    except Exception as error:  # a broken checkpoint fails in a dozen ways, and all of them are the configuration's
        raise ConfigurationError(f"{checkpoint.source} cannot be loaded as a language model: {error}") from error
    _check_layers(checkpoint, model.config.get_text_config())
    model.requires_grad_(False)
    if pack and not options.compile:  # or else only after the compiler has seen the weights
        pack_linears(model)
    return LoadedLanguageModel(model, tokenizer, _eos_tokens(model, tokenizer))


def _load_model(folder: Path, options: LoadOptions) -> Any:
    from transformers import AutoConfig

    gguf = gguf_file(folder)
    if gguf is not None:
        return _from_gguf(folder, gguf, options)
    if AutoConfig.from_pretrained(str(folder), trust_remote_code=False).model_type in VLM_PARTS:
        return load_speaking_part(folder, options)
    return _causal(folder, options)


def _causal(folder: Path, options: LoadOptions, **more: Any) -> Any:
    from transformers import AutoModelForCausalLM

    arguments = pretrained_arguments(options) | more
    return AutoModelForCausalLM.from_pretrained(str(folder), trust_remote_code=False, weights_only=True, **arguments).eval()


def _from_gguf(folder: Path, gguf: str, options: LoadOptions) -> Any:
    from transformers import GgufConfig

    def read(onto: LoadOptions) -> Any:
        # Left packed, a matrix product on a CPU takes several times as long.
        return _causal(folder, onto, gguf_file=gguf, quantization_config=GgufConfig(dequantize=True))

    kept = unpacked(folder, options.dtype, lambda target: read(LoadOptions(dtype=options.dtype)).save_pretrained(target))
    return read(options) if kept is None else _causal(kept, options)


def _check_layers(checkpoint: Checkpoint, config: Any) -> None:
    unserved = set(getattr(config, "layer_types", None) or ()) - LAYER_TYPES
    if unserved or not hasattr(config, "num_hidden_layers"):
        raise ConfigurationError(
            f"{checkpoint.source} has layers that cannot be served from slots: "
            f"{', '.join(sorted(unserved)) or config.model_type}; only {', '.join(sorted(LAYER_TYPES))} can"
        )


def _eos_tokens(model: Any, tokenizer: Any) -> frozenset[int]:
    found = model.generation_config.eos_token_id
    if found is None:
        found = tokenizer.eos_token_id
    return frozenset(() if found is None else [found] if isinstance(found, int) else found)

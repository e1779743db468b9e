"""Tiny checkpoints in their real file formats: random weights, saved by `transformers` itself, read back by the stages."""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from stages.device.torchvision_shim import ensure_torchvision

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{{ '<image>' }}{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}"
    "{{ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TEXT = [
    "a red circle to the left of a blue square on a pink background",
    "Was ist das? Ein größerer Stern über dem weißen Herz, café, naïve, 東京 и Москва 🙂🙃",
    "the quick brown fox jumps over the lazy dog 0123456789 !?.,;:",
]
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>"]


def tiny_tokenizer(**arguments: Any) -> Any:
    """A byte-level BPE tokenizer of 400 tokens, in the form in which transformers keeps them."""
    ensure_torchvision()
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        TEXT * 4, trainers.BpeTrainer(vocab_size=400, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False)
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>", chat_template=CHAT_TEMPLATE, **arguments
    )


def save(model: Any, folder: Path, tokenizer: Any) -> Path:
    model.generation_config.eos_token_id = tokenizer.convert_tokens_to_ids("<|im_end|>")
    model.generation_config.pad_token_id = 0
    model.eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def text_arguments(**more: Any) -> dict[str, Any]:
    """A decoder whose random weights are large enough for its attention to matter."""
    return {
        "vocab_size": 400,
        "hidden_size": 48,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 12,
        "max_position_embeddings": 512,
        "initializer_range": 0.2,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "pad_token_id": 0,
    } | more


def save_decoder(kind: str, folder: Path, **more: Any) -> Path:
    """`kind`: a `model_type` of a causal language model."""
    ensure_torchvision()
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **text_arguments(**more))
    return save(AutoModelForCausalLM.from_config(config), folder, tiny_tokenizer())

"""The real model: SmolLM2-135M-Instruct from its GGUF file."""

from typing import Any

import pytest
import torch

from stages.checkpoints.checkpoint import LoadOptions, Source, resolve
from stages.llm.answers.detokenizer import TextStream
from stages.llm.llm import Llm
from stages.llm.messages import Generate, Sampling
from stages.llm.model.loading import load_language_model
from stages.llm.model.slot_cache import Chunk
from stages.llm.model.slot_table import SlotContents
from stages.llm.pages.kv_page import KvPage
from stages.llm.row import LlmRow
from stages.llm.sampling.sampling import RowSampler
from stages.llm.settings import LlmSettings
from tests.stages.llm.driving import drive, exported
from tests.stages.llm.tiny_models import TEXT

pytestmark = [pytest.mark.models, pytest.mark.timeout(900)]
QUESTIONS = ["What is the capital of France?", "Name two colours.", "Say hello."]


def test_its_answers_are_those_of_generate() -> None:
    loaded = load_language_model(resolve(Source(demo="smollm2")), LoadOptions())
    llm = Llm(loaded, LlmSettings(num_slots=3, max_context_tokens=256, prefill_chunk_tokens=48), "cpu")
    prompts = [_prompt(loaded.tokenizer, question) for question in QUESTIONS]
    work = [Generate(tuple(prompt), Sampling(max_tokens=16, temperature=0.0)) for prompt in prompts]
    answers = drive(llm, [(0, work[0]), (1, work[1]), (6, work[2])])
    for prompt, answer in zip(prompts, answers, strict=True):
        made = loaded.model.generate(
            torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt)), max_new_tokens=16, do_sample=False
        )
        assert answer.text == loaded.tokenizer.decode(made[0, len(prompt) :], skip_special_tokens=True)
    assert "Paris" in answers[0].text


def test_keys_and_values_in_eight_bits_move_its_answers_less_than_computing_in_bfloat16_does() -> None:
    """bfloat16 moves its logits by 0.05 of how much they vary (`stages/llm/model/self_check.py`)."""
    loaded = load_language_model(resolve(Source(demo="smollm2")), LoadOptions())
    settings = LlmSettings(num_slots=2, max_context_tokens=256, prefill_chunk_tokens=128, page_dtype="int8")
    first, second = (Llm(loaded, settings, "cpu") for _ in range(2))
    text = loaded.tokenizer(" ".join(QUESTIONS + TEXT) * 3)["input_ids"][:200]
    work = Generate(tuple(text), Sampling(max_tokens=1, temperature=0.0))
    drive(first, [(0, work)])
    with torch.inference_mode():
        pages = [page for page in exported(first).values() if isinstance(page, KvPage)]
        assert len(pages) == 3
        assert second._pages is not None
        second._pages.write(0, 0, pages)
        right, found = (_logits(llm, text, 192, 200) for llm in (first, second))
    moved = (found - right).norm(dim=-1) / (right - right.mean(-1, keepdim=True)).norm(dim=-1)
    assert 0.001 < moved.max() < 0.05


def _logits(llm: Llm, text: list[int], begin: int, end: int) -> torch.Tensor:
    """[tokens, vocabulary] after each of the text's tokens from `begin` to `end`, where the first slot holds those before."""
    row = LlmRow(
        0, SlotContents("", text), len(text), len(text), 0, 1, RowSampler(Sampling(1)), TextStream(llm._tokenizer, ())
    )
    return torch.cat([llm._forward.run([row], [Chunk(0, at, 1)]) for at in range(begin, end)])


def _prompt(tokenizer: Any, question: str) -> list[int]:
    found = tokenizer.apply_chat_template(
        [{"role": "user", "content": question}], add_generation_prompt=True, return_dict=False
    )
    return list(found)

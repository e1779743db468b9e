"""The real model: SmolLM2-135M-Instruct from its GGUF file."""

from typing import Any

import pytest
import torch

from stages.checkpoints.checkpoint import LoadOptions, Source, resolve
from stages.llm.llm import Llm
from stages.llm.messages import Generate, Sampling
from stages.llm.model.loading import load_language_model
from stages.llm.settings import LlmSettings
from tests.stages.llm.driving import drive

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


def _prompt(tokenizer: Any, question: str) -> list[int]:
    found = tokenizer.apply_chat_template(
        [{"role": "user", "content": question}], add_generation_prompt=True, return_dict=False
    )
    return list(found)

"""Chat without an image is SmolLM2's own, to the token, whether or not a projector is loaded beside it."""

from typing import Any

import httpx
import pytest
import torch

from demo.language_model import load_model, load_tokenizer
from pipelines.ingress.request.settings import settings_of
from pipelines.one_process import one_process
from pipelines.settings.config_file import parse
from tests.pipelines.ingress.surface import client_for

pytestmark = [pytest.mark.models, pytest.mark.timeout(600)]

QUESTIONS = ("What is the capital of France?", "Describe the picture.", "Write one line about the sea.", "2 + 2 =")
MAX_TOKENS = 24


async def answer(client: httpx.AsyncClient, model: str, question: str) -> str:
    body = {"model": model, "messages": [{"role": "user", "content": question}], "temperature": 0, "max_tokens": MAX_TOKENS}
    found = await client.post("/v1/chat/completions", json=body)
    assert found.status_code == 200, found.text
    return str(found.json()["choices"][0]["message"]["content"])


def by_the_library() -> list[str]:
    """Greedy, from the ordinary chat template, by `generate`."""
    model, tokenizer = load_model(torch.device("cpu")), load_tokenizer()
    answers = []
    for question in QUESTIONS:
        messages = [{"role": "user", "content": question}]
        prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
        with torch.inference_mode():
            found = model.generate(**prompt, max_new_tokens=MAX_TOKENS, do_sample=False)
        answers.append(str(tokenizer.decode(found[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True)))
    return answers


async def test_greedy_text_is_the_same_with_a_projector_without_one_and_by_the_library() -> None:
    llm = {"loader": "transformers", "source": {"demo": "smollm2"}, "dtype": "float32", "max_context_tokens": 256}
    eyes = {"loader": "open_clip", "source": {"demo": "clip"}, "projector": {"demo": "projector"}}
    models: dict[str, Any] = {
        "plain": {"pipeline": "image_text", "llm": llm},
        "see": {"pipeline": "image_text", "llm": llm, "vision_encoder": eyes},
    }
    config = parse({"models": models})
    async with one_process(config) as service, client_for(service, settings_of(config)) as client:
        plain = [await answer(client, "plain", question) for question in QUESTIONS]
        see = [await answer(client, "see", question) for question in QUESTIONS]
    assert see == plain
    assert plain == by_the_library()

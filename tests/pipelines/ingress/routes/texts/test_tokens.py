"""POST /tokenize and /detokenize."""

from dataclasses import replace
from typing import Any

import pytest

from pipelines.jobs import ModelCard
from tests.pipelines.ingress.fakes import CHAT, FakeService
from tests.pipelines.ingress.surface import JsonObject, chat_body, client_for, error_of

MESSAGES = chat_body("a bc")["messages"]


async def posted(path: str, body: JsonObject, service: FakeService | None = None) -> JsonObject:
    async with client_for(service or FakeService()) as client:
        response = await client.post(path, json=body)
    assert response.status_code == 200, response.text
    return dict(response.json())


async def refused(path: str, body: JsonObject, service: FakeService | None = None) -> JsonObject:
    async with client_for(service or FakeService()) as client:
        response = await client.post(path, json=body)
    assert response.status_code == 400, response.text
    return error_of(response)


async def test_a_text_becomes_tokens_and_they_become_the_text() -> None:
    service = FakeService()
    told = await posted("/tokenize", {"model": CHAT, "prompt": "a bc a"}, service)
    assert told == {"count": 3, "max_model_len": 256, "tokens": [0, 1, 2], "token_strs": None}
    assert await posted("/detokenize", {"model": CHAT, "tokens": told["tokens"]}, service) == {"prompt": "a bc a"}
    assert await posted("/detokenize", {"tokens": []}, service) == {"prompt": ""}
    assert service.jobs == []


async def test_a_conversation_becomes_the_tokens_of_its_prompt() -> None:
    told = await posted("/tokenize", {"messages": MESSAGES, "return_token_strs": True})
    assert (told["count"], told["token_strs"]) == (2, ["a", " bc"])


async def test_who_writes_prompts_himself_is_told_what_he_needs_of_the_tokenizer() -> None:
    async with client_for(FakeService()) as client:
        told = (await client.get("/tokenizer_info", params={"model": CHAT})).json()
        assert told == (await client.get("/tokenizer_info")).json()
        unknown = await client.get("/tokenizer_info", params={"model": "nobody"})
    assert (told["eos_token"], told["bos_token"], told["model_max_length"]) == ("<end>", None, 256)
    assert told["chat_template"] == "{{ messages }}"
    assert unknown.status_code == 404


async def test_the_model_may_be_left_out_where_one_speaks() -> None:
    class TwoSpeak(FakeService):
        def models(self) -> tuple[ModelCard, ...]:
            first, *others = super().models()
            return (first, replace(first, id="other"), *others)

    error = await refused("/tokenize", {"prompt": "a"}, TwoSpeak())
    assert (error["param"], error["message"]) == ("model", f"model is required; models: {CHAT}, other")


@pytest.mark.parametrize(
    ("body", "param", "told"),
    [
        ({}, "prompt", "given: none"),
        ({"prompt": "a", "messages": MESSAGES}, "prompt", "given: both"),
        ({"prompt": "a", "add_generation_prompt": True}, "add_generation_prompt", "goes with messages"),
        ({"messages": MESSAGES, "add_special_tokens": True}, "add_special_tokens", "goes with prompt"),
        ({"messages": [{"role": "user"}]}, "messages[0].content", "is required"),
        ({"messages": [{"role": "clown", "content": "a"}]}, "messages[0].role", "must be"),
        ({"messages": []}, "messages", "at least 1"),
        ({"prompt": "a" * 200_001}, "prompt", "limits.prompt_chars"),
    ],
)
async def test_what_is_wrong_is_named(body: JsonObject, param: str, told: str) -> None:
    error = await refused("/tokenize", body)
    assert error["param"] == param
    assert told in error["message"]


@pytest.mark.parametrize("tokens", [[5], [-1], ["a"], [2**31], None])
async def test_tokens_that_are_none_are_named(tokens: Any) -> None:
    assert str((await refused("/detokenize", {"tokens": tokens}))["param"]).startswith("tokens")

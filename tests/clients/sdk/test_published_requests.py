"""What the documentation of vLLM and SGLang has clients send to the routes that are here, too: the same fields, with texts of our own.
Each is answered, or refused by the name of what is not done here."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.clients.asked import CLIP, PAINT, SEE, Shape, base_url, data_url, png

CHAT, TEXT, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/responses"
IMAGES, EMBEDDINGS = "/v1/images/generations", "/v1/embeddings"
ASKED = {"messages": [{"role": "user", "content": "Which shape is it?"}]}
PICTURE = {"type": "image_url", "image_url": {"url": data_url(png())}}
TOOLS = [{"type": "function", "function": {"name": "draw", "description": "Draws.", "parameters": Shape.model_json_schema()}}]
EBNF = 'root ::= colour " " kind\ncolour ::= "red" | "blue"\nkind ::= "circle" | "square"\n'
LARK = '?start: "SELECT " name (", " name)* " FROM " name\nname: /[a-z]{1,6}/\n'
OF_SHAPE = {"type": "json_schema", "json_schema": {"name": "shape-in-a-picture", "schema": Shape.model_json_schema()}}
TAGGED = {
    "type": "structural_tag",
    "structures": [{"begin": "<shape>", "schema": {"type": "object"}, "end": "</shape>"}],
    "triggers": ["<shape>"],
}
THOUGHT_OF = {"role": "assistant", "content": "a circle", "reasoning_content": "It is round."}


def seen(*parts: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": [{"type": "text", "text": "What is it?"}, *parts]}]}


ANSWERED: dict[str, tuple[str, dict[str, Any]]] = {
    "text only": (CHAT, {**ASKED, "max_completion_tokens": 8}),
    "text as parts": (CHAT, seen()),
    "a picture": (CHAT, seen(PICTURE)),
    "pictures with ids of the client's": (CHAT, seen({**PICTURE, "uuid": "a"}, {**PICTURE, "uuid": "b"})),
    "top_k and other samplers": (CHAT, {**ASKED, "top_k": 50, "min_p": 0.05, "repetition_penalty": 1.1}),
    "penalties and a seed": (
        CHAT,
        {**ASKED, "temperature": 0.3, "top_p": 0.95, "presence_penalty": 0.2, "frequency_penalty": 0.2, "n": 1, "seed": 42},
    ),
    "a bias of tokens": (CHAT, {**ASKED, "temperature": 0.7, "logit_bias": {"12345": 50, "11111": -25}}),
    "a choice, older": (CHAT, {**ASKED, "guided_choice": ["round", "square"]}),
    "a choice": (CHAT, {**ASKED, "structured_outputs": {"choice": ["round", "square"]}}),
    "a pattern that a stop ends": (CHAT, {**ASKED, "guided_regex": r"\w{1,8}@\w{1,8}\.com\n", "stop": ["\n"]}),
    "a pattern": (CHAT, {**ASKED, "structured_outputs": {"regex": "(yes|no)"}}),
    "a pattern, SGLang's": (CHAT, {**ASKED, "temperature": 0, "regex": "(circle|square)"}),
    "a grammar, SGLang's": (CHAT, {**ASKED, "temperature": 0, "ebnf": EBNF}),
    "a grammar of Lark": (CHAT, {**ASKED, "guided_grammar": LARK, "max_tokens": 24}),
    "a grammar": (CHAT, {**ASKED, "structured_outputs": {"grammar": EBNF}}),
    "a schema": (CHAT, {**ASKED, "response_format": OF_SHAPE}),
    "a schema, older": (CHAT, {**ASKED, "guided_json": Shape.model_json_schema()}),
    "tools by choice": (CHAT, {**ASKED, "tools": TOOLS, "tool_choice": "auto", "temperature": 0, "top_p": 0.95}),
    "tools that must be called": (CHAT, {**ASKED, "tools": TOOLS, "tool_choice": "required"}),
    "a named tool": (CHAT, {**ASKED, "tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "draw"}}}),
    "thoughts told apart": (
        CHAT,
        {**ASKED, "chat_template_kwargs": {"enable_thinking": False}, "separate_reasoning": True, "include_reasoning": True},
    ),
    "thoughts sent back": (CHAT, {"messages": [*ASKED["messages"], THOUGHT_OF, *ASKED["messages"]]}),
    "an answer that goes on": (
        CHAT,
        {
            "messages": [*ASKED["messages"], {"role": "assistant", "content": "It is a"}],
            "add_generation_prompt": False,
            "continue_final_message": True,
        },
    ),
    "a plain text, not said again": (TEXT, {"prompt": "A circle may not", "echo": False, "n": 2, "logprobs": 3}),
    "a plain text with stops": (TEXT, {"prompt": "Write of a square.", "stop": ["\n\n", "THE END"], "seed": 123}),
    "a plain text held to a schema": (TEXT, {"prompt": "A shape: ", "json_schema": '{"enum": ["circle", "square"]}'}),
    "responses": (RESPONSES, {"input": "Which shape is it?", "max_output_tokens": 8}),
    "responses that call": (
        RESPONSES,
        {
            "input": [{"role": "user", "content": "Draw a circle."}],
            "tools": [{"type": "function", "name": "draw", "parameters": Shape.model_json_schema(), "strict": True}],
            "tool_choice": "required",
        },
    ),
    "a painting": (IMAGES, {"prompt": "a red circle", "size": "64x64", "n": 1, "response_format": "b64_json", "seed": 42}),
    "a painting with its steps": (
        IMAGES,
        {"prompt": "a red circle", "num_inference_steps": 2, "guidance_scale": 2.0, "negative_prompt": "blue"},
    ),
    "an embedding": (EMBEDDINGS, {"input": "a circle"}),
    "embeddings as base64": (EMBEDDINGS, {"input": ["a circle", "a square"], "encoding_format": "base64"}),
}
REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "JSON within tags": (CHAT, {**ASKED, "response_format": TAGGED}, "response_format.type"),
    "a video": (
        CHAT,
        seen({"type": "video_url", "video_url": {"url": "data:video/mp4;base64,AAAA"}}),
        "messages[0].content[1].type",
    ),
    "a sound": (
        CHAT,
        seen({"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}),
        "messages[0].content[1].type",
    ),
    "a picture's embedding": (CHAT, seen({"type": "image_embeds", "image_embeds": "AAAA"}), "messages[0].content[1].type"),
    "other weights": (CHAT, {**ASKED, "lora_path": "adapter_a"}, "lora_path"),
    "a schema that is called otherwise": (
        CHAT,
        {**ASKED, "structured_outputs": {"choices": ["round"]}},
        "structured_outputs.choices",
    ),
    "tokens of another's": (EMBEDDINGS, {"input": [1, 2, 3]}, "input"),
    "a conversation to be embedded": (EMBEDDINGS, {"messages": ASKED["messages"]}, "input"),
    "tools of another server": (
        RESPONSES,
        {"input": "a", "tools": [{"type": "mcp", "server_label": "code"}]},
        "tools[0].type",
    ),
}
MODELS = {IMAGES: PAINT, EMBEDDINGS: CLIP}


@pytest.fixture(scope="module")
def http() -> Iterator[httpx.Client]:
    with httpx.Client(base_url=base_url().removesuffix("/v1"), timeout=200) as client:
        yield client


def with_model(path: str, body: dict[str, Any]) -> dict[str, Any]:
    return {
        "model": MODELS.get(path, SEE),
        **({"max_tokens": 8} if path in (CHAT, TEXT) and not _is_held(body) else {}),
        **body,
    }


def _is_held(body: dict[str, Any]) -> bool:
    return bool({"response_format", "guided_json", "tools"} & set(body)) or "max_completion_tokens" in body


@pytest.mark.parametrize("name", ANSWERED)
def test_answered(http: httpx.Client, name: str) -> None:
    path, body = ANSWERED[name]
    answer = http.post(path, json=with_model(path, body))
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("name", REFUSED)
def test_refused_by_name(http: httpx.Client, name: str) -> None:
    path, body, param = REFUSED[name]
    answer = http.post(path, json=with_model(path, body))
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == param

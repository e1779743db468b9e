"""Bodies and forms that are almost right: an answer or an error in OpenAI's form, never a failure of the server's own."""

import json
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.effort import effort
from tests.fuzz.mutations import VALUES, altered, mutated
from tests.pipelines.ingress.fakes import CHAT, EMBED, PAINT, FakeService
from tests.pipelines.ingress.surface import chat_body, client_for, data_url, error_of, image_part, png

pytestmark = pytest.mark.timeout(900)  # each example makes the whole surface anew: a tenth of a second of a quiet core

NAMES = st.sampled_from(
    ["system", "assistant", "user", "text", "image_url", "auto", "url", "b64_json", "64x64", CHAT, PAINT, EMBED]
)
ROUTES: dict[str, list[dict[str, Any]]] = {
    "/v1/chat/completions": [
        chat_body("hello there", max_tokens=4, temperature=0.5, stop=["x"], seed=3, n=2, logprobs=True, top_logprobs=2),
        chat_body(
            [{"type": "text", "text": "see"}, image_part(detail="low")], stream=True, stream_options={"include_usage": True}
        ),
        chat_body("a", triptych={"priority": 1}, logit_bias={"5": 1}, presence_penalty=1.0, user="ada"),
    ],
    "/v1/completions": [
        {"model": CHAT, "prompt": ["a b", "c"], "echo": True, "logprobs": 2, "max_tokens": 3, "n": 2, "stop": "x"},
        {"model": CHAT, "prompt": [[0, 1], [2]], "stream": True, "logit_bias": {"5": 1}},
        {"model": CHAT, "prompt": "a", "guided_regex": "a+", "top_p": 0, "best_of": 1},
    ],
    "/v1/responses": [
        {"model": CHAT, "input": "a", "instructions": "b", "stream": True, "top_logprobs": 2, "metadata": {"a": "b"}},
        {
            "model": CHAT,
            "input": [
                {"role": "user", "content": [{"type": "input_image", "image_url": data_url(png())}]},
                {"type": "reasoning", "id": "r", "summary": [], "content": [{"type": "reasoning_text", "text": "x"}]},
                {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
                {"type": "function_call_output", "call_id": "c", "output": "5"},
            ],
            "tools": [{"type": "function", "name": "f", "parameters": {"type": "object"}}, {"type": "image_generation"}],
            "text": {"format": {"type": "json_schema", "name": "n", "schema": {"type": "object"}}},
        },
    ],
    "/tokenize": [{"prompt": "a b", "return_token_strs": True}, {"messages": chat_body("a")["messages"]}],
    "/detokenize": [{"tokens": [0, 1]}],
    "/v1/batches": [{"input_file_id": "file-x", "endpoint": "/v1/completions", "completion_window": "1h"}],
    "/v1/images/generations": [
        {"model": PAINT, "prompt": "a boat", "n": 2, "size": "64x64", "triptych": {"num_inference_steps": 3}},
        {"model": PAINT, "prompt": "a boat", "stream": True, "partial_images": 1, "response_format": "b64_json"},
    ],
    "/v1/embeddings": [
        {"model": EMBED, "input": ["one", "two"], "encoding_format": "base64"},
        {"model": EMBED, "input": [{"type": "image_url", "image_url": {"url": data_url(png())}}, "text"]},
    ],
}
FORM = (
    b'--x\r\nContent-Disposition: form-data; name="model"\r\n\r\n%s\r\n'
    b'--x\r\nContent-Disposition: form-data; name="prompt"\r\n\r\na boat\r\n'
    b'--x\r\nContent-Disposition: form-data; name="triptych[strength]"\r\n\r\n0.5\r\n'
    b'--x\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\nContent-Type: image/png\r\n\r\n%s\r\n--x--\r\n'
) % (PAINT.encode(), png())
PIECES = [
    b"--x\r\n",
    b"--x--",
    b"\r\n\r\n",
    b"\r\n",
    b'name="',
    b'filename="',
    b"filename*=utf-8''%ff",
    b"[",
    b"]",
    b"=?",
    b"\0",
    b"\xff",
]
TYPES = [
    "multipart/form-data; boundary=x",
    "multipart/form-data",
    'multipart/form-data; boundary=""',
    "multipart/form-data; boundary=\xff",
    'multipart/form-data; boundary=x; charset=utf-16; y="',
    'multipart/form-data; boundary=x; charset=a\0b; y="',
]


async def posted(path: str, body: bytes, content_type: str) -> httpx.Response:
    async with client_for(FakeService()) as client:
        return await client.post(path, content=body, headers={b"content-type": content_type.encode("latin-1")})


def is_sound(response: httpx.Response) -> None:
    assert response.status_code == 200 or 400 <= response.status_code < 500, response.text
    if response.status_code != 200:
        error = error_of(response)
        assert error["message"]
        assert error["type"] == "invalid_request_error"


@effort(300)
@given(st.sampled_from(sorted(ROUTES)).flatmap(lambda path: st.tuples(st.just(path), altered(ROUTES[path], VALUES | NAMES))))
async def test_a_changed_body_is_answered_or_refused(case: tuple[str, Any]) -> None:
    path, body = case
    is_sound(await posted(path, json.dumps(body).encode(), "application/json"))


@effort(200)
@given(
    st.sampled_from(sorted(ROUTES)),
    mutated([json.dumps(bodies[0]).encode() for bodies in ROUTES.values()], [b'{"', b"[", b"NaN", b"1e999", b"\\ud800"]),
)
async def test_a_damaged_body_is_answered_or_refused(path: str, body: bytes) -> None:
    is_sound(await posted(path, body, "application/json"))


@effort(300)
@given(mutated([FORM], PIECES), st.sampled_from(TYPES))
async def test_a_damaged_form_is_answered_or_refused(body: bytes, content_type: str) -> None:
    is_sound(await posted("/v1/images/edits", body, content_type))

"""Large bodies in pieces: the same bytes."""

import base64

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Message

from pipelines.ingress.request.whole_answer import PIECE_BYTES, WholeAnswer, base64_pieces, cut, listed
from pipelines.ingress.schemas.embeddings import EmbeddingsAnswer, EmbeddingsUsage
from pipelines.ingress.schemas.receipt import Receipt

SIZES = st.sampled_from([0, 1, 2, 3, PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1, 3 * PIECE_BYTES + 5])


@given(st.lists(SIZES, max_size=6))
def test_pieces_are_the_same_bytes_and_none_is_large(sizes: list[int]) -> None:
    pieces = [bytes([index]) * size for index, size in enumerate(sizes)]
    made = list(cut(pieces))
    assert b"".join(made) == b"".join(pieces)
    assert all(0 < len(piece) <= PIECE_BYTES for piece in made)
    assert len(made) <= 2 * sum(sizes) // PIECE_BYTES + 1


@given(SIZES)
def test_base64_in_pieces_is_that_of_the_whole(size: int) -> None:
    data = bytes(range(251)) * (size // 251) + bytes(size % 251)
    assert b"".join(base64_pieces(data)) == base64.b64encode(data)


@pytest.mark.parametrize("pieces", [[], [b"short"], [b"a" * PIECE_BYTES, b"b" * (3 * PIECE_BYTES + 1), b"end"]])
async def test_a_whole_answer_is_sent_in_pieces_with_its_length(pieces: list[bytes]) -> None:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        raise AssertionError("nothing is read")

    await WholeAnswer(pieces, headers={"x-own": "1"})({"type": "http"}, receive, send)
    headers = dict(sent[0]["headers"])
    assert headers[b"content-length"] == str(sum(map(len, pieces))).encode()
    assert (headers[b"content-type"], headers[b"x-own"]) == (b"application/json", b"1")
    assert b"".join(message["body"] for message in sent[1:]) == b"".join(pieces)
    assert [message["more_body"] for message in sent[1:]] == [True] * (len(sent) - 2) + [False]


async def test_a_client_reads_what_was_meant() -> None:
    response = WholeAnswer([b"[1", b",2]"])
    transport = httpx.ASGITransport(response)
    async with httpx.AsyncClient(transport=transport, base_url="http://triptych") as client:
        assert (await client.get("/")).json() == [1, 2]


def test_members_of_a_list_have_commas_between_them() -> None:
    assert b"".join(listed([[b"1"], [b"2", b"3"], [b"4"]])) == b"1,23,4"
    assert b"".join(listed([])) == b""


@pytest.mark.parametrize("model", ["plain", '"data":[]', 'x","data":[]'])
def test_a_body_around_its_list_is_the_body(model: str) -> None:
    usage, receipt = (
        EmbeddingsUsage(prompt_tokens=1, total_tokens=1),
        Receipt(request_id="r", total_s=0, device_s=0, stages=[]),
    )
    body = EmbeddingsAnswer(object="list", model=model, data=[], usage=usage, triptych=receipt)
    before, after = body.around("data")
    assert before + after == body.to_json()
    assert (before.endswith(b'"data":['), after[:1]) == (True, b"]")

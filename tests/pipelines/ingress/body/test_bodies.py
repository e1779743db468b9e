"""Bodies in pieces come to the same as at once; what would keep the interpreter's lock for long is refused."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.ingress.body.bodies import (
    MAX_BLANKS,
    MAX_BYTES_BEYOND_ASCII,
    MAX_ESCAPES,
    MAX_OPENINGS,
    MAX_VALUES,
    WEIGHT_A_PIECE,
    parse,
)
from pipelines.ingress.body.forms import MAX_PARTS, parse_form
from pipelines.ingress.schemas.chat import ChatBody
from pipelines.ingress.schemas.images import EditBody
from stages.contract.errors import InvalidRequest

FORM = "multipart/form-data; boundary=b"


def chat(messages: object, **fields: object) -> bytes:
    return json.dumps({"model": "m", "messages": messages, **fields}).encode()


def message(num_parts: int, text: str = "a") -> dict[str, Any]:
    return {"role": "user", "content": [{"type": "text", "text": text}] * num_parts}


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 700), min_size=1, max_size=6))
def test_a_body_in_pieces_is_the_body(sizes: list[int]) -> None:
    body = chat([message(size, str(row)) for row, size in enumerate(sizes)], temperature=0.5)
    assert parse(body, ChatBody) == ChatBody.model_validate_json(body)


@pytest.mark.parametrize("row", [0, 3, 7])
def test_an_error_names_the_field_whichever_piece_it_is_in(row: int) -> None:
    messages = [message(WEIGHT_A_PIECE - 30) for _ in range(8)]
    messages[row]["content"][5] = {"type": "text", "text": 5}
    with pytest.raises(InvalidRequest) as refused:
        parse(chat(messages), ChatBody)
    assert refused.value.param == f"messages[{row}].content[5].text"


def test_a_fault_outside_the_pieces_is_told_as_ever() -> None:
    messages = [message(WEIGHT_A_PIECE - 30) for _ in range(3)]
    with pytest.raises(InvalidRequest, match="temperature"):
        parse(chat(messages, temperature="hot"), ChatBody)
    with pytest.raises(InvalidRequest, match=r"messages\[2\]\.role"):
        parse(chat([*messages[:2], {"role": "nobody", "content": "x"}, *messages]), ChatBody)


def text(content: str) -> bytes:
    return b'{"model":"m","messages":[{"role":"user","content":"' + content.encode() + b'"}]}'


@pytest.mark.parametrize(
    ("content", "limit"),
    [
        (",", MAX_VALUES),
        ("[", MAX_OPENINGS),
        ("{", MAX_OPENINGS),
        (r"\n", MAX_ESCAPES),
        (" ", MAX_BLANKS),
        ("\N{GRINNING FACE}", MAX_BYTES_BEYOND_ASCII // 4),
    ],
)
def test_what_takes_a_parser_long_has_a_bound(content: str, limit: int) -> None:
    assert len(parse(text(content * (limit - 100)), ChatBody).messages) == 1
    with pytest.raises(InvalidRequest, match=r"the body has over \d+"):
        parse(text(content * (limit + 1)), ChatBody)


def form(file: bytes) -> bytes:
    fields = b"".join(
        b'--b\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n' % pair
        for pair in ((b"model", b"m"), (b"prompt", b"p"))
    )
    head = b'--b\r\nContent-Disposition: form-data; name="image"; filename="x"\r\n\r\n'
    return fields + head + file + b"\r\n--b--\r\n"


@pytest.mark.parametrize("file", [b"", b"\r\n--", b"\r\n--bX" * (MAX_PARTS - 3), bytes(300_000), b"\r\n" * 200_000])
def test_a_file_is_its_bytes(file: bytes) -> None:
    found = parse_form(FORM, form(file), EditBody, files={"image": 1})
    assert (found.files["image"], found.filenames["image"]) == ([file], ["x"])


def test_a_file_full_of_the_forms_boundary_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="boundary"):
        parse_form(FORM, form(b"\r\n--bX" * 100_000), EditBody, files={"image": 1})


@pytest.mark.parametrize("inside", ["", "logit_bias", "metadata", "triptych"])
def test_a_member_that_is_not_known_is_told_by_the_beginning_of_its_name(inside: str) -> None:
    unknown = {"x" * 1_000_000: 1}
    with pytest.raises(InvalidRequest, match=r"x{100}") as refused:
        parse(chat([{"role": "user", "content": "a"}], **({inside: unknown} if inside else unknown)), ChatBody)
    assert len(str(refused.value)) < 1000
    assert len(refused.value.param or "") < 1000

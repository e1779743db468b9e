"""A call that is written as tags, as Qwen's coders write it: `<function=f><parameter=city>Bern</parameter></function>`.

What a parameter holds is text where the function's schema says so, else JSON where it is some, else text.
"""

import re
from collections.abc import Mapping
from typing import Any, TypeAlias

from pipelines.tools.json_reading import json_text, value_of
from pipelines.tools.pythonic import WrittenCall

ArgumentTypes: TypeAlias = Mapping[str, Mapping[str, Any]]
"""By function and parameter: its schema."""

_HEAD = re.compile(r"<function=([^>\n]{1,256})>")
_OPEN = re.compile(r"<parameter=([^>\n]{1,256})>")
_CLOSE = "</parameter>"


def tagged_call(text: str, types: ArgumentTypes | None) -> WrittenCall | None:
    """`text`: up to the tag that ends the function. None: it is no call."""
    head = _HEAD.match(text)
    if head is None:
        return None
    name = head[1].strip()
    schemas = (types or {}).get(name, {})
    arguments: dict[str, Any] = {}
    found = _OPEN.search(text, head.end())
    while found is not None:
        following = _OPEN.search(text, found.end())
        limit = len(text) if following is None else following.start()
        end = text.find(_CLOSE, found.end(), limit)
        key = found[1].strip()
        arguments[key] = _value(text[found.end() : limit if end < 0 else end], schemas.get(key))
        found = following
    try:
        return WrittenCall(name, json_text(arguments))
    except ValueError:
        return None


def _value(text: str, schema: object) -> Any:
    """Without the line ends that the tags stand on."""
    text = text.removeprefix("\n").removesuffix("\n")
    if isinstance(schema, Mapping) and schema.get("type") == "string":
        return text
    try:
        return value_of(text)
    except ValueError:
        return text

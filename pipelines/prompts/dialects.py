"""How a model calls tools and thinks, by what its template writes: it is asked once for a small conversation with a tool and a call.

Decides what the configuration's word means beside that. Knows templates and tokenizers; the families are in `pipelines/tools/formats.py`.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.jobs import TextPart
from pipelines.prompts.render_bounds import rendering_bounded
from pipelines.prompts.writers import Entry, PromptWriter
from pipelines.tools.dialect import Dialect
from pipelines.tools.formats import BY_NAME, PROBE, format_of, thought_marks_in

AUTO, NONE = "auto", "none"
PROBE_S = 0.5  # of CPU, for each small conversation
_ARGUMENTS = {"probe_argument": "probe_value"}
_TOOL = {
    "type": "function",
    "function": {
        "name": PROBE,
        "description": "x",
        "parameters": {
            "type": "object",
            "properties": {"probe_argument": {"type": "string", "description": "x"}},
            "required": ["probe_argument"],
        },
    },
}
_CALL = {"id": "probe1234", "type": "function", "function": {"name": PROBE, "arguments": _ARGUMENTS}}


def dialect_of(writer: PromptWriter, tokenizer: Any, *, tools: str = AUTO, thoughts: str = AUTO) -> Dialect:
    """`tools`: "auto", "none", or a format's name; `thoughts`: "auto" or "none"."""
    shown = _rendered(writer, [_user(writer)], [_TOOL])
    knows_tools = shown is not None and PROBE in shown
    form = BY_NAME.get(tools)
    if tools == AUTO and knows_tools:
        form = format_of(_written_call(writer))
    marks = thought_marks_in(writer.template) if thoughts == AUTO else None
    template = getattr(tokenizer, "response_template", None) if tools == AUTO and thoughts == AUTO else None
    added: Mapping[int, Any] = tokenizer.added_tokens_decoder
    text = "" if form is None else form.marks
    if marks is not None:
        text += marks.opening + marks.closing
    if template is not None:
        text += json.dumps(template, ensure_ascii=False).replace("\\", "")
    return Dialect(
        format=form,
        knows_tools=knows_tools,
        thoughts=marks,
        response_template=template,
        tokens={token.content: number for number, token in added.items() if token.content in text},
        special={token.content: number for number, token in added.items() if token.special and token.content in text},
        is_refused=tools == NONE,
    )


def takes_system(writer: PromptWriter) -> bool:
    """Whether the template shows a system message."""
    system = {"role": "system", "content": writer.content((TextPart(PROBE),))}
    return PROBE in (_rendered(writer, [system, _user(writer)], ()) or "")


def _written_call(writer: PromptWriter) -> str:
    """What stands where a template writes a call; "" where it writes none."""
    call: Entry = {"role": "assistant", "content": writer.content((TextPart(""),)), "tool_calls": [_CALL]}
    result: Entry = {"role": "tool", "content": writer.content((TextPart("y"),)), "tool_call_id": "probe1234", "name": "x"}
    for conversation in ([_user(writer), call, result], [_user(writer), call]):
        written = _rendered(writer, conversation, ())
        if written is not None:
            return written
    return ""


def _user(writer: PromptWriter) -> Entry:
    return {"role": "user", "content": writer.content((TextPart("x"),))}


def _rendered(writer: PromptWriter, conversation: Sequence[Entry], tools: Sequence[Entry]) -> str | None:
    """None: the template refuses it, or takes too long."""
    try:
        with rendering_bounded(max_render_s=PROBE_S):
            return writer.render(conversation, tools, add_generation_prompt=True)
    except Exception:  # a template is a program, and may fail on anything that its authors never tried
        return None

"""How much time and text a chat template may take, whatever a client lets it loop over.

A template is the checkpoint's program, run over what strangers send: one that goes through all messages for each of them takes the
square of their number, one that calls itself for each level of a tool's schema may double with each. So every turn of its loops and
every call of its macros looks whether it may go on: whether anybody still waits for the prompt, and whether it has taken more of this
thread's CPU than `MAX_RENDER_S`. What it has written is bounded in characters. What can't be stopped is one expression between two
turns, which goes over the client's texts once (a few milliseconds for the largest that the limits let in), and the sandbox bounds
what a template counts up by itself.

Knows no model and no HTTP. Templates are compiled by `transformers`, once each; `watch_templates` adds the look at that place, since
what is compiled there is used wherever a template is applied.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from typing import Any

from jinja2 import Environment, Template, nodes, pass_context
from jinja2.runtime import Context
from jinja2.visitor import NodeTransformer

from stages.contract.errors import InvalidRequest
from stages.contract.wanted import stop_if_unwanted

MAX_RENDER_S = 5.0
"""Of CPU. The longest conversation that the limits let in takes an ordinary template some tens of milliseconds."""
MAX_CHARS = 16 * 2**20
"""Of a prompt, before it is read: some eighty times the texts that the limits let in by default."""
_LOOK = "triptych_look"


class _Bounds:
    """Of one rendering, on one thread."""

    def __init__(self, max_render_s: float, max_chars: int) -> None:
        self._max_render_s, self._max_chars = max_render_s, max_chars
        self._until_s, self._chars_left = time.thread_time() + max_render_s, max_chars

    def look(self) -> None:
        stop_if_unwanted()
        if time.thread_time() > self._until_s:
            raise InvalidRequest(
                f"the model's chat template takes more than {self._max_render_s:g} s to write these messages; send fewer or "
                "simpler ones",
                param="messages",
            )

    def write(self, num_chars: int) -> None:
        self._chars_left -= num_chars
        if self._chars_left < 0:
            raise InvalidRequest(
                f"the model's chat template writes more than {self._max_chars} characters for these messages; send fewer or "
                "shorter ones",
                param="messages",
            )


_BOUNDS: ContextVar[_Bounds | None] = ContextVar("render_bounds", default=None)


@contextmanager
def rendering_bounded(max_render_s: float = MAX_RENDER_S, max_chars: int = MAX_CHARS) -> Iterator[None]:
    """What `transformers` renders inside, on this thread, raises `InvalidRequest` over these bounds, and `Cancelled` once nobody waits for
    it. Only templates that were first compiled after `watch_templates`."""
    before = _BOUNDS.set(_Bounds(max_render_s, max_chars))
    try:
        yield
    finally:
        _BOUNDS.reset(before)


def watch_templates() -> None:
    """Makes `transformers` compile chat templates so that they look. Safe to call again, and to use without bounds."""
    from transformers.utils import chat_template_utils

    library: Any = chat_template_utils
    if getattr(library._compile_jinja_template, "is_watched", False):
        return
    compile_plain = library._cached_compile_jinja_template

    @lru_cache
    def compile_watched(source: str) -> Template:
        return watched(compile_plain(source), source)

    compile_watched.is_watched = True  # type: ignore[attr-defined]
    library._compile_jinja_template = compile_watched


def watched(template: Template, source: str) -> Template:
    """The same template, of the same environment, with a look at every turn and call."""
    environment: Environment = template.environment
    environment.filters[_LOOK] = _look
    tree = _Looking().visit(environment.parse(source))
    made = Template.from_code(environment, environment.compile(tree), environment.make_globals(None))
    render_all = made.root_render_func

    def written(context: Context) -> Iterator[str]:
        bounds = _BOUNDS.get()
        for piece in render_all(context):
            if bounds is not None:
                bounds.write(len(piece))
            yield piece

    made.root_render_func = written
    return made


class _Looking(NodeTransformer):
    """Puts a look first into every loop's and every macro's body."""

    def visit_For(self, node: nodes.For) -> nodes.Node:
        return self._with_look(node)

    def visit_Macro(self, node: nodes.Macro) -> nodes.Node:
        return self._with_look(node)

    def visit_CallBlock(self, node: nodes.CallBlock) -> nodes.Node:
        return self._with_look(node)

    def _with_look(self, node: nodes.For | nodes.Macro | nodes.CallBlock) -> nodes.Node:
        self.generic_visit(node)
        look = nodes.Filter(nodes.Const(None), _LOOK, [], [], None, None, lineno=node.lineno)
        node.body.insert(0, nodes.ExprStmt(look, lineno=node.lineno))
        return node


@pass_context
def _look(context: Context, value: None) -> None:
    bounds = _BOUNDS.get()
    if bounds is not None:
        bounds.look()

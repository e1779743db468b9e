"""Chat templates of every shape: bounded, each writes what it writes unbounded, and none goes on once nobody waits for it."""

from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from pipelines.prompts.render_bounds import rendering_bounded, watched
from stages.contract.errors import Cancelled
from stages.contract.wanted import wanted_while
from tests.fuzz.effort import effort

MACRO = "{% macro deep(n) %}<{{ n }}{% if n > 0 %}{{ deep(n - 1) }}{% endif %}{{ caller() if caller }}>{% endmacro %}"
LEAVES = st.sampled_from(
    [
        "plain\n",
        "{{ messages | length }}",
        "{{ loop.index0 if loop }}",
        "{{ m.role if m }}",
        "{{ deep(2) }}",
        "{% set ns.n = ns.n + 1 %}{{ ns.n }}",
        "{% if loop and loop.last %}{% break %}{% endif %}",
        "{% if m and m.role == 'user' %}{% continue %}{% endif %}",
        "{{- ' | ' -}}",
        "{# nothing #}",
    ]
)


def blocks(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    body = st.lists(inner, min_size=1, max_size=3).map("".join)
    return st.one_of(
        body.map("{{% for m in messages %}}{}{{% endfor %}}".format),
        body.map("{{% for m in messages if m.text %}}{}{{% else %}}none{{% endfor %}}".format),
        body.map("{{%- for m in messages[::-1] -%}}{}{{%- endfor -%}}".format),
        body.map("{{% call deep(1) %}}{}{{% endcall %}}".format),
        body.map("{{% set x %}}{}{{% endset %}}{{{{ x }}}}".format),
        body.map("{{% if messages %}}{}{{% endif %}}".format),
    )


TEMPLATES = st.recursive(LEAVES, blocks, max_leaves=8)
MESSAGES = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["system", "user"]), "text": st.text(max_size=5)}), max_size=4
)
HEAD = MACRO + "{% set ns = namespace(n=0) %}{% set loop = false %}{% set m = false %}"


def rendered(render: object, messages: list[dict[str, str]]) -> str:
    """Its text; or what it fails with, which a template may."""
    try:
        return str(render(messages=messages))  # type: ignore[operator]
    except Cancelled:
        raise
    except Exception as error:
        return f"{type(error).__name__}: {error}"


@effort(200)
@given(TEMPLATES, MESSAGES)
def test_a_bounded_template_writes_what_it_writes(template: str, messages: list[dict[str, str]]) -> None:
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    source = HEAD + template
    try:
        plain = environment.from_string(source)
    except Exception:  # a break outside of a loop
        return
    expected = rendered(plain.render, messages)
    bounded = watched(plain, source)
    with rendering_bounded():
        assert rendered(bounded.render, messages) == expected


@effort(20)
@given(
    st.integers(2, 6),
    st.sampled_from(["x", "{{ deep(3) }}", "{% if x0 > 5 %}y{% endif %}", "{% call deep(1) %}z{% endcall %}"]),
)
def test_none_goes_on_for_long_once_nobody_waits(depth: int, body: str) -> None:
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    loops = "".join(f"{{% for x{level} in range(99999) %}}" for level in range(depth))
    ends = "{% endfor %}" * depth
    source = HEAD + loops + body + ends
    bounded, looks = watched(environment.from_string(source), source), count()
    with wanted_while(lambda: next(looks) < 50), rendering_bounded(), pytest.raises(Cancelled):
        rendered(bounded.render, [])
    assert next(looks) <= 60

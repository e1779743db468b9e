"""Whatever a chat template loops over, its time and its text are bounded, and it ends with its request."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count

import pytest
from jinja2 import Template
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from pipelines.prompts.render_bounds import rendering_bounded, watched
from stages.contract.errors import Cancelled, InvalidRequest
from stages.contract.wanted import wanted_while

FEATURES = {
    "turns": "{% for m in messages %}{{ loop.index }}/{{ loop.length }}{{ m.role }}{{ '' if loop.last else ', ' }}{% endfor %}",
    "a filtered loop": "{% for m in messages if m.role == 'user' %}{{ m.text }}{% else %}none{% endfor %}",
    "leaving early": "{% for m in messages %}{% if loop.first %}{% continue %}{% endif %}{{ m.text }}{% break %}{% endfor %}",
    "a macro that calls itself": (
        "{% macro deep(n) %}({{ n }}{% if n %}{{ deep(n - 1) }}{% endif %}){% endmacro %}{{ deep(messages | length) }}"
    ),
    "a caller": "{% macro twice() %}{{ caller() }}{{ caller() }}{% endmacro %}{% call twice() %}{{ messages[0].text }}{% endcall %}",
    "a namespace": "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}",
    "a recursive loop": "{% for n in tree recursive %}{{ n.name }}[{{ loop(n.below) }}]{% endfor %}",
    "white space": "{%- for m in messages %}\n  {{- m.text }}\n{% endfor %}\n",
    "no loop at all": "{{ messages[0].text }}",
}
MESSAGES = [{"role": role, "text": f"{role} <|x|> {number}"} for number, role in enumerate(("system", "user", "assistant"))]
TREE = [{"name": "a", "below": [{"name": "b", "below": []}, {"name": "c", "below": []}]}]

ENDLESS = {
    "loops within loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "a macro that doubles": "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(60) }}",
    "a recursive loop": "{% for n in [100] recursive %}{% if n %}{{ loop([n - 1, n - 1]) }}{% endif %}{% endfor %}",
    "a caller that doubles": (
        "{% macro m(n) %}{{ caller() }}{% if n %}{% call m(n - 1) %}{% endcall %}{% call m(n - 1) %}{% endcall %}{% endif %}"
        "{% endmacro %}{% call m(60) %}{% endcall %}"
    ),
}


def compiled(source: str) -> Template:
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    return environment.from_string(source)


@contextmanager
def wanted_for(num_looks: int) -> Iterator[None]:
    looks = count()
    with wanted_while(lambda: next(looks) < num_looks):
        yield


@pytest.mark.parametrize("name", FEATURES)
def test_what_is_written_is_what_the_template_writes(name: str) -> None:
    plain = compiled(FEATURES[name])
    expected = plain.render(messages=MESSAGES, tree=TREE)
    bounded = watched(plain, FEATURES[name])
    assert bounded.render(messages=MESSAGES, tree=TREE) == expected
    with rendering_bounded():
        assert bounded.render(messages=MESSAGES, tree=TREE) == expected


@pytest.mark.parametrize("name", ENDLESS)
def test_an_endless_template_is_the_requests_fault(name: str) -> None:
    template = watched(compiled(ENDLESS[name]), ENDLESS[name])
    with rendering_bounded(max_render_s=0.05), pytest.raises(InvalidRequest, match=r"more than 0\.05 s") as refused:
        template.render()
    assert refused.value.param == "messages"


@pytest.mark.parametrize("name", ENDLESS)
def test_an_endless_template_ends_with_its_request(name: str) -> None:
    template = watched(compiled(ENDLESS[name]), ENDLESS[name])
    with rendering_bounded(max_render_s=3600), wanted_for(num_looks=500), pytest.raises(Cancelled):
        template.render()


def test_who_writes_everything_again_for_every_message_is_refused_before_it_is_put_together() -> None:
    source = "{% for m in messages %}{{ text }}{% endfor %}"
    template = watched(compiled(source), source)
    with rendering_bounded(max_chars=10_000):
        assert len(template.render(messages=range(10), text="x" * 1000)) == 10_000
    with rendering_bounded(max_chars=10_000), pytest.raises(InvalidRequest, match="more than 10000 characters"):
        template.render(messages=range(11), text="x" * 1000)


def test_bounds_are_of_one_rendering() -> None:
    source = "{% for m in messages %}x{% endfor %}"
    template = watched(compiled(source), source)
    for _ in range(3):
        with rendering_bounded(max_chars=4):
            assert template.render(messages=range(4)) == "xxxx"
    assert template.render(messages=range(5)) == "xxxxx"  # elsewhere there are none

"""A small real stage whose rows begin where others left off: it spells texts, a letter a step, and remembers two letters a page."""

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.contract.errors import InvalidRequest
from stages.contract.pages import MadePage, PageRun
from stages.contract.recipe import NO_INPUTS, Inputs, InputsMissing, Recipe
from stages.contract.result import Result
from stages.contract.stage import Share, Stepped
from tests.stages.fakes import Gate, Total

PAGE = 2  # letters


@dataclass(frozen=True)
class Letters(Result):
    """A page. `codes`: [2] uint8."""

    codes: NDArray[np.uint8]

    @classmethod
    def of_text(cls, text: str) -> "Letters":
        return cls(np.frombuffer(text.encode(), np.uint8))

    @property
    def text(self) -> str:
        return self.codes.tobytes().decode()


@dataclass(frozen=True)
class Spell:
    """Spells `text`. The n-th result of `plus` is needed for the n-th page, unless that need not be spelled."""

    text: str
    salt: str = ""
    plus: tuple[Recipe[Total], ...] = ()

    def needs(self) -> Sequence[Recipe[Any]]:
        return self.plus

    def page_names(self) -> tuple[str, ...]:
        return tuple(f"{self.salt}:{self.text[:end]}" for end in range(PAGE, len(self.text) + 1, PAGE))


@dataclass(frozen=True)
class PreparedSpell:
    pages: dict[str, str]
    given: frozenset[str]


@dataclass(eq=False)
class Spelling:
    payload: Spell
    spelled: str
    num_known: int
    steps: int = 0


@dataclass(eq=False)
class Speller:
    """Tells, at the end, how many letters it knew and what it has spelled. `holds`: pages' letters, by name, as slots would;
    `forgets`: it holds nothing. `each_holds_all`: a page has all letters up to its end. `page_work`: so much that fetching
    always pays, unless a test says otherwise."""

    gate: Gate = field(default_factory=Gate)
    export_gate: Gate = field(default_factory=Gate)
    forgets: bool = True
    each_holds_all: bool = False
    page_bytes: int = PAGE
    page_work: float = 1e6
    fails_telling: bool = False
    fails_exporting: bool = False
    holds: dict[str, str] = field(default_factory=dict)
    to_export: dict[str, MadePage] = field(default_factory=dict)
    asked: Counter[str] = field(default_factory=Counter)
    running: list[Spelling] = field(default_factory=list)
    num_steps: int = 0
    exported: list[tuple[str, bool]] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)

    device = "cpu"
    page_type = Letters

    def check(self, payload: Spell) -> None:
        if len(payload.text) > 100:
            raise InvalidRequest("over 100 letters", param="text")

    def weigh(self, payload: Spell) -> float:
        return 1.0

    def page_run(self, payload: Spell) -> PageRun:
        if self.fails_telling:
            raise RuntimeError("it can't tell")
        names = payload.page_names()
        self.asked.update(names)
        num_resident = next((place for place, name in enumerate(names) if name not in self.holds), len(names))
        return PageRun(names, num_resident, self.page_work, self.page_bytes, self.each_holds_all)

    def needs(self, payload: Spell, inputs: Inputs = NO_INPUTS) -> Sequence[Recipe[Any]]:
        names = payload.page_names()
        known = {name for name in names if name in self.holds or inputs.get(name) is not None}
        return [recipe for recipe, name in zip(payload.plus, names, strict=False) if name not in known]

    def prepare(self, payload: Spell, inputs: Inputs) -> PreparedSpell:
        given = frozenset(recipe.name for recipe in payload.plus if recipe in inputs)
        pages = {name: page.text for name in payload.page_names() if isinstance(page := inputs.get(name), Letters)}
        return PreparedSpell(pages, given)

    def share(self, prepared: PreparedSpell) -> Share:
        return Share("spell", 1.0)

    def can_start(self, payload: Spell) -> bool:
        return len(self.running) < 4

    def start(self, payload: Spell, prepared: PreparedSpell) -> Spelling:
        known = {**prepared.pages, **self.holds}
        spelled = self._whole(payload, known) if self.each_holds_all else self._run(payload, known)
        lacks = payload.plus[len(spelled) // PAGE :]
        if missing := [recipe for recipe in lacks if recipe.name not in prepared.given]:
            raise InputsMissing(missing)
        spelled = spelled[: len(payload.text) - 1]  # the last one is spelled in any case
        row = Spelling(payload, spelled, len(spelled))
        self.running.append(row)
        prepared.pages.clear()
        return row

    def _run(self, payload: Spell, known: dict[str, str]) -> str:
        spelled = ""
        for name in payload.page_names():
            if name not in known:
                break
            spelled += known[name]
        return spelled

    def _whole(self, payload: Spell, known: dict[str, str]) -> str:
        return max((known[name] for name in payload.page_names() if name in known), key=len, default="")

    def suspend(self, row: Spelling) -> str:
        return row.spelled

    def resume(self, payload: Spell, prepared: PreparedSpell, suspended: str) -> Spelling:
        row = self.start(payload, prepared)
        row.spelled = suspended
        return row

    def batch_key(self, row: Spelling) -> Hashable:
        return "spell"

    def cost(self, row: Spelling) -> float:
        return 1.0

    def step(self, rows: Sequence[Spelling]) -> Sequence[Stepped]:
        self.gate.pass_through()
        self.num_steps += 1
        return [self._stepped(row) for row in rows]

    def _stepped(self, row: Spelling) -> Stepped:
        text = row.payload.text
        row.spelled += text[len(row.spelled)]
        row.steps += 1
        if len(row.spelled) % PAGE == 0:
            self._made(row)
        if len(row.spelled) < len(text):
            return Stepped()
        return Stepped(((row.num_known, row.spelled),), done=True)

    def _made(self, row: Spelling) -> None:
        name = f"{row.payload.salt}:{row.spelled}"
        text = row.spelled if self.each_holds_all else row.spelled[-PAGE:]
        before = tuple(other for other in row.payload.page_names() if len(other) < len(name))
        self.to_export[name] = MadePage(name, row.payload.salt, Letters.of_text(text), before)
        if not self.forgets:
            self.holds[name] = text

    def finish(self, row: Spelling) -> None:
        self.running.remove(row)

    def has_exports(self, *, idle: bool) -> bool:
        return self._next_export(idle) is not None

    def export(self, *, idle: bool) -> Sequence[MadePage]:
        """One at a time."""
        self.export_gate.pass_through()
        if self.fails_exporting:
            raise RuntimeError("it can't export")
        name = self._next_export(idle)
        assert name is not None
        self.exported.append((name, idle))
        return [self.to_export.pop(name)]

    def lost(self, names: Sequence[str]) -> None:
        self.dropped += names

    def _next_export(self, idle: bool) -> str | None:
        return next((name for name in self.to_export if idle or self.asked[name] >= 2), None)

"""Pages that leave an engine: between steps, behind the answers, and never in anyone's way."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from stages.contract.errors import TriptychError
from stages.contract.pages import MadePage
from stages.contract.recipe import Inputs
from stages.device.cores import SharedCores
from stages.engine.iterative import IterativeEngine
from stages.engine.paging import FAILURE_REST_STEPS
from stages.engine.work import Clock
from tests.stages.bench import submit
from tests.stages.fakes import PATIENCE_S, Gate, HandClock
from tests.stages.paged import Letters, PreparedSpell, Spell, Speller, Spelling

SpellingEngine = IterativeEngine[Spell, PreparedSpell, Spelling]


class Taker:
    """A `PageTaker`."""

    def __init__(self) -> None:
        self.taken: list[str] = []
        self.room = True
        self._changed = threading.Condition()

    def has_room(self) -> bool:
        return self.room

    def take(self, pages: Sequence[MadePage]) -> None:
        with self._changed:
            self.taken += [page.name for page in pages]
            self._changed.notify_all()

    def wait_for(self, count: int) -> list[str]:
        with self._changed:
            if not self._changed.wait_for(lambda: len(self.taken) >= count, PATIENCE_S):
                raise TimeoutError("no pages came")
            return self.taken


class Desk:
    """One engine over a speller. `export_s`: how long an export takes, by the hand's clock."""

    def __init__(self, quiet_after_s: float = 0, export_s: float = 0, clock: Clock | None = None) -> None:
        self.speller, self.taker, self.time, self.looks = Speller(), Taker(), HandClock(), 0
        self._export_s = export_s
        self._export, self._has_exports = self.speller.export, self.speller.has_exports
        self.speller.export, self.speller.has_exports = self._exported, self._looked  # type: ignore[method-assign]
        self.engine: SpellingEngine = IterativeEngine(
            self.speller, name="spell", clock=clock or self.time.clock, quiet_after_s=quiet_after_s
        )

    def begin(self) -> None:
        assert self.engine.paging is not None
        self.engine.paging.remember_with(self.taker)

    def spell(self, text: str) -> list[object]:
        return submit(self.engine, Spell(text))[0].wait().seen

    def look_twice(self) -> None:
        """What the engine's thread would export now, it has."""
        assert self.engine.paging is not None
        for _ in range(2):
            before = self.looks
            self.engine.paging.room_again()
            while self.looks == before:
                threading.Event().wait(0.001)

    def _exported(self, *, idle: bool) -> Sequence[MadePage]:
        self.time.now += self._export_s
        return self._export(idle=idle)

    def _looked(self, *, idle: bool) -> bool:
        self.looks += 1
        return self._has_exports(idle=idle)


@contextmanager
def closing_desk(quiet_after_s: float = 0, export_s: float = 0, clock: Clock | None = None) -> Iterator[Desk]:
    desk = Desk(quiet_after_s, export_s, clock)
    try:
        yield desk
        desk.engine.check_integrity()
    finally:
        desk.speller.gate.open()
        desk.speller.export_gate.open()
        desk.engine.close(PATIENCE_S)


@pytest.fixture
def desk() -> Iterator[Desk]:
    with closing_desk() as desk:
        yield desk


def test_an_idle_engine_exports_all_there_is(desk: Desk) -> None:
    desk.begin()
    assert desk.spell("abcdef") == [(0, "abcdef")]
    assert desk.taker.wait_for(3) == [":ab", ":abcd", ":abcdef"]


def test_what_was_seen_once_waits_until_the_load_has_ended_but_for_one_at_a_time() -> None:
    with closing_desk(quiet_after_s=0.5, export_s=0.01) as desk:
        desk.begin()
        desk.spell("abcdef")
        assert desk.taker.wait_for(1) == [":ab"]
        desk.time.now += 0.25
        desk.spell("uvwxyz")
        desk.time.now += 0.25
        desk.look_twice()
        assert desk.speller.exported == [(":ab", True)]  # the next in a gap a hundred times as long as that took later
        desk.time.now += 0.25
        desk.look_twice()
        assert len(desk.taker.wait_for(6)) == 6


def test_under_a_light_load_that_never_rests_pages_seen_once_leave_in_its_gaps() -> None:
    with closing_desk(quiet_after_s=0.5, export_s=0.01) as desk:
        desk.begin()
        desk.spell("abcdef")
        desk.taker.wait_for(1)
        for _ in range(5):
            desk.time.now += 0.25
            desk.spell("ab")
        desk.taker.wait_for(2)
        desk.look_twice()
        assert [name for name, _ in desk.speller.exported] == [":ab", ":abcd"]


def test_the_engine_wakes_when_the_load_has_ended() -> None:
    with closing_desk(quiet_after_s=0.05, clock=Clock()) as desk:
        desk.begin()
        desk.spell("abcdef")
        desk.taker.wait_for(3)


def test_nothing_is_exported_before_someone_takes_it(desk: Desk) -> None:
    desk.spell("abcdef")
    assert desk.speller.exported == []
    desk.begin()
    desk.taker.wait_for(3)


def test_under_load_only_what_was_asked_for_twice_is_exported(desk: Desk) -> None:
    desk.begin()
    paging = desk.engine.paging
    assert paging is not None
    for text in ("abcd", "abxy"):
        paging.run_of(Spell(text))
    desk.speller.gate.close()
    inbox, _ = submit(desk.engine, Spell("abcdef"))
    desk.speller.gate.let(5)
    desk.speller.gate.wait_for(6)  # its last step
    assert desk.speller.exported == [(":ab", False)]
    desk.speller.gate.open()
    inbox.wait()
    desk.taker.wait_for(3)
    assert desk.speller.exported[1:] == [(":abcd", True), (":abcdef", True)]


def test_what_comes_while_pages_are_exported_waits_for_one_piece(desk: Desk) -> None:
    desk.begin()
    desk.speller.export_gate.close()
    desk.spell("abcdef")
    desk.speller.export_gate.wait_for(1)
    desk.speller.gate.close()
    inbox, _ = submit(desk.engine, Spell("xyz"))
    while desk.engine.load().queued != 1 or not desk.engine._in_flight.scheduler.has_work():
        threading.Event().wait(0.001)
    desk.speller.export_gate.let(1)
    desk.speller.gate.wait_for(7)  # the newcomer's first step
    assert len(desk.speller.exported) == 1
    desk.speller.gate.open()
    desk.speller.export_gate.open()
    assert inbox.wait().seen == [(0, "xyz")]
    desk.taker.wait_for(4)


def test_who_does_not_keep_up_is_given_nothing_until_there_is_room(desk: Desk) -> None:
    desk.taker.room = False
    desk.begin()
    desk.spell("abcdef")
    desk.spell("uvwxyz")
    assert desk.speller.exported == []
    desk.taker.room = True
    assert desk.engine.paging is not None
    desk.engine.paging.room_again()
    desk.taker.wait_for(6)


def test_a_stage_hears_of_what_is_lost(desk: Desk) -> None:
    desk.begin()
    desk.spell("ab")
    desk.taker.wait_for(1)
    assert desk.engine.paging is not None
    desk.engine.paging.lost([":ab"])
    assert desk.speller.dropped == [":ab"]


def test_a_stage_that_can_not_export_serves_all_the_same_and_is_left_alone(desk: Desk) -> None:
    desk.begin()
    desk.speller.fails_exporting = True
    assert desk.spell("abcdef") == [(0, "abcdef")]
    while desk.engine.metrics()["page_failures_total"] < 1:
        threading.Event().wait(0.001)
    assert desk.spell("uvwxyz") == [(0, "uvwxyz")]
    assert desk.engine.metrics()["page_failures_total"] == 1
    assert not desk.engine.is_broken
    desk.speller.fails_exporting = False
    for _ in range(FAILURE_REST_STEPS // 6 + 1):
        desk.spell("uvwxyz")
    desk.taker.wait_for(3)


def test_what_could_not_run_has_no_pages(desk: Desk) -> None:
    paging = desk.engine.paging
    assert paging is not None
    with pytest.raises(TriptychError, match="over 100"):
        paging.run_of(Spell("a" * 101))


def test_how_long_computing_takes_is_learned_from_steps(desk: Desk) -> None:
    paging = desk.engine.paging
    assert paging is not None
    assert paging.seconds_for(2) is None
    desk.spell("ab")
    assert paging.seconds_for(2) is not None


def test_a_row_that_has_started_holds_no_pages(desk: Desk) -> None:
    desk.speller.gate.close()
    inputs = Inputs({":ab": Letters.of_text("ab")})
    inbox, handle = submit(desk.engine, Spell("abcd"), inputs)
    desk.speller.gate.wait_for(1)
    work = handle._work  # type: ignore[attr-defined]
    assert work.inputs.get(":ab") is None
    desk.speller.gate.open()
    assert inbox.wait().seen == [(2, "abcd")]


def test_while_an_idle_engine_exports_all_cores_are_the_others(tmp_path: Path) -> None:
    cores = SharedCores(tmp_path / "cores", num_cores=4)
    lease = cores.lease(4, set_threads=lambda count: None)
    other = cores.lease(4, set_threads=lambda count: None)
    assert lease is not None
    assert other is not None
    speller, taker = Speller(export_gate=Gate(closed=True)), Taker()
    engine: SpellingEngine = IterativeEngine(speller, name="spell", cores=lease)
    assert engine.paging is not None
    engine.paging.remember_with(taker)
    submit(engine, Spell("abcdef"))[0].wait()
    speller.export_gate.let(1)  # right behind the last step
    speller.export_gate.wait_for(2)
    assert cores.wanted_by_others(other._index) == 0
    speller.export_gate.open()
    taker.wait_for(3)
    engine.close(PATIENCE_S)
    other.close()

"""Pixels in decoding are bounded, whoever decodes; who has no room waits in line, and no longer than anybody waits for it."""

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.concurrency.thread_pool import working_for
from stages.contract.errors import Cancelled, Overloaded, TooLarge
from stages.contract.wanted import stop_if_unwanted, wanted_while
from stages.images.image import decoded
from stages.images.pixel_budget import PixelBudget, pixels_of_this_process
from tests.stages.fakes import PATIENCE_S
from tests.stages.image_files import quarters, save


class Holding:
    """Decodes until it is told to stop."""

    def __init__(
        self,
        pool: ThreadPoolExecutor,
        budget: PixelBudget,
        pixels: int,
        wanted: Callable[[], bool] = lambda: True,
        tenant: str = "",
    ) -> None:
        self._has_room, self._end, self._in_line = threading.Event(), threading.Event(), threading.Event()
        self._wanted = wanted
        self.ended: Future[None] = pool.submit(self._hold, budget, pixels, tenant)

    def _hold(self, budget: PixelBudget, pixels: int, tenant: str) -> None:
        with working_for(tenant), wanted_while(self._asked), budget.hold(pixels, param="image"):
            self._has_room.set()
            assert self._end.wait(PATIENCE_S)

    def _asked(self) -> bool:
        self._in_line.set()  # who waits is asked
        return self._wanted()

    def in_line(self) -> "Holding":
        assert self._in_line.wait(PATIENCE_S)
        return self

    def begun(self) -> "Holding":
        assert self._has_room.wait(PATIENCE_S)
        return self

    @property
    def has_begun(self) -> bool:
        return self._has_room.is_set()

    def end(self) -> None:
        self._end.set()
        self.ended.result(PATIENCE_S)


def test_what_does_not_fit_waits_until_there_is_room() -> None:
    budget = PixelBudget(100, max_wait_s=PATIENCE_S)
    with ThreadPoolExecutor() as pool:
        first, second = Holding(pool, budget, 60).begun(), Holding(pool, budget, 60)
        assert budget.held_pixels == 60
        first.end()
        second.begun().end()
    assert budget.held_pixels == 0


def test_a_large_image_is_not_passed_by_small_ones() -> None:
    budget = PixelBudget(100, max_wait_s=PATIENCE_S)
    with ThreadPoolExecutor() as pool:
        first = Holding(pool, budget, 60).begun()
        large = Holding(pool, budget, 100).in_line()
        small = Holding(pool, budget, 10)
        first.end()
        large.begun()
        assert not small.has_begun
        large.end()
        small.begun().end()


def test_of_those_who_wait_the_tenant_that_holds_least_goes_first() -> None:
    budget = PixelBudget(100, max_wait_s=PATIENCE_S)
    with ThreadPoolExecutor(8) as pool:
        held = [Holding(pool, budget, 50, tenant="a").begun() for _ in range(2)]
        more, theirs = Holding(pool, budget, 50, tenant="a").in_line(), Holding(pool, budget, 50, tenant="b").in_line()
        held[0].end()
        theirs.begun()
        assert not more.has_begun
        held[1].end()
        more.begun().end()
        theirs.end()


def test_who_finds_no_room_in_time_is_told_to_come_back_and_what_is_the_limit() -> None:
    budget = PixelBudget(100, max_wait_s=0)
    with budget.hold(60, param="image"), pytest.raises(Overloaded) as caught, budget.hold(60, param="image"):
        pass
    assert caught.value.retry_after_s
    assert all(word in caught.value.message for word in ("60", "100", "limits.pixels_in_flight"))
    with budget.hold(100, param="image"):
        assert budget.held_pixels == 100


def test_what_never_fits_is_refused_at_once_with_the_setting() -> None:
    budget = PixelBudget(100, max_wait_s=PATIENCE_S)
    with (
        pytest.raises(TooLarge, match=r"image: .*101 pixels.*100.*limits\.pixels_in_flight") as caught,
        budget.hold(101, param="image"),
    ):
        pass
    assert caught.value.param == "image"


def test_what_waits_is_refused_once_the_limit_is_below_it() -> None:
    budget = PixelBudget(100, max_wait_s=PATIENCE_S)
    with ThreadPoolExecutor() as pool:
        first, second = Holding(pool, budget, 60).begun(), Holding(pool, budget, 90)
        budget.limit(80)
        with pytest.raises(TooLarge):
            second.ended.result(PATIENCE_S)
        first.end()


def test_what_nobody_wants_any_more_stops_waiting() -> None:
    budget, wanted = PixelBudget(100, max_wait_s=PATIENCE_S), threading.Event()
    wanted.set()
    with ThreadPoolExecutor() as pool:
        first, second = Holding(pool, budget, 60).begun(), Holding(pool, budget, 60, wanted.is_set)
        wanted.clear()
        with pytest.raises(Cancelled):
            second.ended.result(PATIENCE_S)
        assert budget.held_pixels == 60
        first.end()


@given(st.lists(st.integers(1, 120), min_size=1, max_size=8))
def test_never_more_is_held_than_the_limit_and_all_is_given_back(images: list[int]) -> None:
    budget, most, lock = PixelBudget(100, max_wait_s=PATIENCE_S), [0], threading.Lock()

    def use(pixels: int) -> bool:
        try:
            with budget.hold(pixels, param="image"), lock:
                most[0] = max(most[0], budget.held_pixels)
        except TooLarge:
            return False
        return True

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(use, images)) == [pixels <= 100 for pixels in images]
    assert most[0] <= 100
    assert budget.held_pixels == 0


def test_an_image_counts_while_it_is_used_and_no_longer() -> None:
    budget = PixelBudget(40 * 24)
    with decoded(save(quarters(), "PNG"), max_pixels=10**6, param="image", budget=budget):
        assert budget.held_pixels == 40 * 24
    with pytest.raises(ZeroDivisionError), decoded(save(quarters(), "PNG"), max_pixels=10**6, param="image", budget=budget):
        _ = 1 // 0
    assert budget.held_pixels == 0


def test_all_of_a_process_share_one_budget() -> None:
    assert pixels_of_this_process() is pixels_of_this_process()


def test_what_nobody_has_said_anything_of_is_wanted_and_inside_the_innermost_word_counts() -> None:
    stop_if_unwanted()
    with wanted_while(lambda: False):
        with pytest.raises(Cancelled):
            stop_if_unwanted()
        with wanted_while(lambda: True):
            stop_if_unwanted()
    stop_if_unwanted()

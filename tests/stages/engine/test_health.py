"""Whether a device still works, told by a clock that is moved by hand."""

from stages.engine.health import FIRST_STEP_FACTOR, MAX_FAILURES, Health


def test_failures_in_a_row_of_different_items_make_a_device_suspect() -> None:
    health = Health()
    for number in range(MAX_FAILURES):
        assert not health.is_suspect
        health.failed([f"{number}"])
    assert health.is_suspect
    assert health.broken is None  # bad items fail, too


def test_one_item_alone_never_does() -> None:
    health = Health()
    for _ in range(10 * MAX_FAILURES):
        health.failed(["bad"])
    assert not health.is_suspect


def test_one_batch_of_many_does_not() -> None:
    health = Health()
    health.failed([f"{number}" for number in range(100)])
    assert not health.is_suspect


def test_one_success_clears_it() -> None:
    health = Health()
    for number in range(100):
        health.failed([f"{number}"])
        health.went_well()
    assert not health.is_suspect


def test_a_batch_that_is_not_back_in_time_breaks_it() -> None:
    health = Health(max_step_s=10)
    health.went_well()
    health.begin(100)
    health.check(110)
    assert health.broken is None
    health.check(110.1)
    assert health.broken == "a batch has been running for 10 s, and max_step_s allows 10"


def test_the_time_of_one_batch_does_not_count_for_the_next() -> None:
    health = Health(max_step_s=10)
    health.went_well()
    health.begin(100)
    health.begin(108)
    health.check(112)
    health.end()
    health.check(1000)
    assert health.broken is None


def test_a_first_batch_has_more_time_because_it_compiles() -> None:
    health = Health(max_step_s=10)
    health.begin(0)
    health.check(10 * FIRST_STEP_FACTOR)
    assert health.broken is None
    health.check(10 * FIRST_STEP_FACTOR + 1)
    assert health.broken is not None


def test_a_preparation_that_never_ends_breaks_it_as_a_batch_does() -> None:
    health = Health(max_step_s=10)
    health.went_well()
    health.begin_preparing("a", 100)
    health.begin_preparing("b", 105)
    health.end_preparing("a")
    health.check(115)
    assert health.broken is None
    health.check(116)
    assert health.broken == "an item has been prepared for 11 s, and max_step_s allows 10"


def test_broken_is_for_ever_and_the_first_reason_stays() -> None:
    health = Health()
    health.lost("the first")
    health.lost("the second")
    health.went_well()
    assert health.broken == "the first"

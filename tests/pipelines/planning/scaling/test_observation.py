"""What replicas and callers tell becomes the state of every pool."""

import pytest

from pipelines.planning.scaling.observation import (
    ACQUAINTED_AFTER_S,
    FORGOTTEN_AFTER_S,
    START_UP_S,
    Observation,
    Present,
    Told,
    Waiting,
    Watched,
)
from pipelines.planning.scaling.pool_state import Feed, PoolState, StageLoad
from stages.contract.cost import Speed, StepTimes
from stages.contract.news import StageNews
from stages.contract.work import Work

SPEED = Speed(StepTimes(((1.0, 0.1),)), 4, 100.0)
POOL = Watched(PoolState("a", (StageLoad("m.s"),)))
RUNNING = {"a": Present(running=1)}


def told(
    arrived: int, left: int, *, stage: str = "m.s", pool: str = "a", in_hand: int = 0, speed: Speed | None = SPEED
) -> Told:
    news = StageNews(
        stage,
        "r",
        "cpu",
        "float32",
        speed,
        Work(10.0, 10.0) * in_hand,
        in_hand,
        arrived=Work(10.0, 10.0) * arrived,
        num_arrived=arrived,
        num_left=left,
    )
    return Told(pool, (news,))


def seen(
    observation: Observation,
    now: float,
    *news: Told,
    watched: Watched = POOL,
    present: Present = Present(running=1),
    **more: object,
) -> PoolState:
    waiting = more.get("waiting", [])
    named = {str(at): one for at, one in enumerate(news)}
    (state,) = observation.states([watched], named, waiting, {"a": present}, now, 2.0)  # type: ignore[arg-type]
    return state


def test_counters_become_rates_between_two_looks() -> None:
    observation = Observation()
    seen(observation, 0.0, told(100, 90))
    load = seen(observation, 4.0, told(120, 112, in_hand=8)).stages[0]
    assert (load.arriving, load.leaving, load.work) == (5.0, 5.5, Work(50.0, 50.0))
    assert (load.backlog, load.num_items, load.speed) == (Work(80.0, 80.0), 8, SPEED)


def test_what_was_there_before_the_first_look_came_at_no_known_rate() -> None:
    assert seen(Observation(), 0.0, told(100, 90)).stages[0].arriving == 0.0


@pytest.mark.parametrize("again", [3, 0])
def test_a_replica_that_began_anew_counts_from_nothing(again: int) -> None:
    observation = Observation()
    seen(observation, 0.0, told(100, 90))
    assert seen(observation, 1.0, told(again, 0)).stages[0].arriving == again


def test_a_new_replica_of_a_known_pool_has_begun_at_nothing() -> None:
    observation = Observation()
    seen(observation, 0.0, told(100, 90))
    seen(observation, ACQUAINTED_AFTER_S, told(100, 90))
    assert seen(observation, ACQUAINTED_AFTER_S + 1.0, told(100, 90), told(7, 0)).stages[0].arriving == 7.0


def test_who_is_heard_of_only_after_the_first_looks_may_have_been_there_before() -> None:
    observation = Observation()
    seen(observation, 0.0)
    seen(observation, 2.0, told(100, 90))
    load = seen(observation, 4.0, told(104, 92), told(5000, 4990)).stages[0]
    assert (load.arriving, load.leaving) == (2.0, 1.0)
    assert seen(observation, 6.0, told(104, 92), told(5006, 4990)).stages[0].arriving == 3.0


@pytest.mark.parametrize("silent_s", [2.0, 60.0, FORGOTTEN_AFTER_S - 20.0])
def test_a_replica_that_is_heard_of_again_goes_on_from_what_it_told_last(silent_s: float) -> None:
    """The table that keeps what they tell began anew, or it told nothing for a while."""
    observation, since = Observation(), ACQUAINTED_AFTER_S
    seen(observation, 0.0, told(100_000, 99_990))
    seen(observation, since, told(100_000, 99_990))
    num = int(5 * (silent_s + 2.0))
    assert seen(observation, since + silent_s).stages[0].arriving == 0.0
    load = seen(observation, since + silent_s + 2.0, told(100_000 + num, 99_990 + num)).stages[0]
    assert (load.arriving, load.leaving) == (5.0, 5.0)


def test_a_replica_that_has_ended_is_forgotten() -> None:
    observation = Observation()
    seen(observation, 0.0, told(100, 90))
    seen(observation, FORGOTTEN_AFTER_S + 1.0)
    assert seen(observation, FORGOTTEN_AFTER_S + 2.0, told(107, 90)).stages[0].arriving == 107.0


def test_what_waits_at_callers_is_in_the_line() -> None:
    waiting = [
        {("a", "m.s"): Waiting(3, Work(30.0, 30.0))},
        {("a", "m.s"): Waiting(1, Work(5.0, 5.0)), ("b", "m.s"): Waiting(9)},
    ]
    load = seen(Observation(), 0.0, present=Present(), waiting=waiting).stages[0]
    assert (load.num_items, load.backlog) == (4, Work(35.0, 35.0))


def test_where_nothing_runs_the_last_words_of_replicas_are_no_line() -> None:
    assert seen(Observation(), 0.0, told(10, 5, in_hand=5), present=Present(starting=1)).stages[0].num_items == 0


def test_a_pool_that_the_cluster_does_not_have_is_left_out() -> None:
    assert Observation().states([POOL], {}, [], {}, 0.0, 2.0) == []


def test_how_long_a_replica_takes_to_start_is_seen() -> None:
    observation = Observation()
    assert seen(observation, 0.0, present=Present(running=1)).start_up_s == START_UP_S
    seen(observation, 2.0, present=Present(running=1, starting=1))
    seen(observation, 20.0, present=Present(running=1, starting=1))
    assert seen(observation, 42.0, present=Present(running=2)).start_up_s == 40.0


def test_a_stage_that_comes_next_gets_so_many_items_as_were_seen_and_at_most_one_each() -> None:
    pool = Watched(PoolState("a", (StageLoad("m.llm"), StageLoad("m.encoder"))), after={"m.llm": ("m.encoder",)})
    observation = Observation()

    def feeds(now: float, llm: int, encoder: int) -> tuple[Feed, ...]:
        both = Told("a", told(llm, 0, stage="m.llm").news + told(encoder, 0, stage="m.encoder").news)
        return seen(observation, now, both, watched=pool).stages[0].after

    assert feeds(0.0, 0, 0) == (Feed("m.encoder", 1.0),)
    assert feeds(2.0, 50, 200) == (Feed("m.encoder", 0.25),)  # four images a chat
    assert feeds(4.0, 950, 200) == (Feed("m.encoder", 1.0),)  # chats without an image come by another way

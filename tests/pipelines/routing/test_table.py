"""What a process knows of the replicas that it sends items to, from what they tell and from what it sent itself."""

import random
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.routing.candidate import Wanted
from pipelines.routing.ownership import seed_of, weight
from pipelines.routing.table import MAX_HOLDERS, STILL_SO_S, Member, ReplicaTable
from stages.contract.cost import Speed
from stages.contract.news import Hints
from stages.contract.work import Work
from tests.pipelines.routing.fleet import STAGE, news, speed

WORK = Work(10.0, 10.0)
URGENT = Wanted(WORK, priority=-1)


def table(**pools: int) -> ReplicaTable:
    """So many replicas in each pool, called for it: a0, a1."""
    made = ReplicaTable(random.Random(1).random)
    for pool, count in pools.items():
        made.members(pool, [Member(f"{pool}{number}", 64) for number in range(count)], lambda replica: None, 0.0)
    return made


def test_nobody_is_known_until_somebody_says_who_is_there() -> None:
    assert ReplicaTable(random.random).ranked(STAGE, ["a"], URGENT, 0.0) is None
    found = table(a=1).ranked(STAGE, ["a", "b"], URGENT, 0.0)
    assert found is not None
    assert (found.best.pool, found.best.replica) == ("a", "a0")


def test_all_pools_of_a_stage_are_ranked_together() -> None:
    known = table(fast=2, slow=2)
    for replica, times, count in (("fast0", 1.0, 200), ("fast1", 1.0, 200), ("slow0", 3.0, 0), ("slow1", 3.0, 90)):
        known.heard(replica[:-1], news(replica, count, times=times), 0.0)
    found = known.ranked(STAGE, ["fast", "slow"], URGENT, 0.0)
    assert found is not None
    assert found.best.replica == "slow0"
    assert found.runner_up is not None


def test_older_news_than_is_known_is_passed_over() -> None:
    known = table(a=2)
    known.heard("a", news("a0", 0, number=3), 0.0)
    known.heard("a", news("a0", 50, number=2), 1.0)
    known.heard("a", news("a1", 5), 1.0)
    found = known.ranked(STAGE, ["a"], URGENT, 1.0)
    assert found is not None
    assert found.best.replica == "a0"


def test_a_replica_that_is_gone_is_no_candidate_and_what_it_held_is_forgotten() -> None:
    known = table(a=2)
    known.heard("a", news("a0", 0, holds=[7]), 0.0)
    known.members("a", [Member("a1", 64)], lambda replica: None, 0.0)
    found = known.ranked(STAGE, ["a"], Wanted(WORK, Hints((7,), WORK)), 0.0)
    assert found is not None
    assert found.best.replica == "a1"
    assert not found.remembered


@given(st.lists(st.tuples(st.sampled_from(["send", "wait", "end", "move", "hear"]), st.integers(0, 3)), max_size=40))
def test_what_is_sent_and_has_ended_leaves_nothing_behind(acts: list[tuple[str, int]]) -> None:
    known, now, number = table(a=4), 0.0, 0
    under_way = []
    for act, place in acts:
        now += 0.1
        if act == "send":
            under_way.append(known.sent(STAGE, "a", f"a{place}", WORK, now))
        elif act == "wait":
            under_way.append(known.sent(STAGE, "a", "", WORK, now))
        elif act == "hear":
            number += 1
            known.heard("a", news(f"a{place}", 0, number=number), now)
        elif act == "end" and under_way:
            known.ended(under_way.pop(place % len(under_way)))
        elif act == "move" and under_way:
            known.went(under_way[place % len(under_way)], f"a{place}", now)
    assert sum(demand.num_items for demand in known.demand().values()) == len(under_way)
    for sent in under_way:
        known.ended(sent)
        known.ended(sent)
    assert not known.demand()
    found = known.ranked(STAGE, ["a"], URGENT, now)
    assert found is not None
    candidates = known._stages[STAGE].known.values()
    assert all(one.num_sent == 0 and one.sent == Work(0.0, 0.0) for one in candidates)


def test_news_that_comes_again_and_again_ages_all_the_same_and_its_work_is_done() -> None:
    """As Serve tells of all replicas when one has news."""
    known = table(a=2)
    known.heard("a", news("a0", 40), 100.0, delay_s=0.5)
    known.heard("a", news("a1", 0), 100.0, delay_s=0.5)
    busy, idle = (known._stages[STAGE].known["a", replica] for replica in ("a0", "a1"))
    assert busy.heard_at == idle.heard_at == 99.5  # when it was told
    known.heard("a", news("a1", 0, number=2), 100.1, delay_s=0.5)
    for now in range(101, 200):
        known.heard("a", news("a0", 40), now, delay_s=0.5)
        known.heard("a", news("a1", 0, number=2), now, delay_s=0.5)
    assert busy.heard_at == 99.5
    assert 100 < idle.heard_at <= 100.1 + STILL_SO_S  # it is believed for a while to be idle still
    before = idle.heard_at
    known.heard("a", news("a1", 0, number=3), 100.2, delay_s=0.5)
    assert idle.heard_at == before


def test_what_was_sent_counts_until_news_that_could_know_of_it() -> None:
    known = table(a=1)
    known.heard("a", news("a0", 0), 0.0)
    idle_s = speed().finish_s(WORK)

    def expected_s(now: float) -> float:
        found = known.ranked(STAGE, ["a"], URGENT, now)
        assert found is not None
        return found.finish_s

    known.sent(STAGE, "a", "a0", WORK * 50, 1.0)
    busy_s = expected_s(1.0)
    assert busy_s > idle_s
    known.heard("a", news("a0", 0, number=2), 1.001)  # it was under way when that was told
    assert expected_s(1.001) == pytest.approx(busy_s, rel=0.01)
    known.heard("a", news("a0", 0, number=3), 2.0)
    assert expected_s(2.0) == pytest.approx(idle_s)


def test_what_no_replica_has_taken_yet_is_told_of_as_demand_for_the_pool() -> None:
    known = table(a=1, b=0)
    known.sent(STAGE, "a", "a0", WORK, 0.0)
    waiting = known.sent(STAGE, "b", "", WORK, 0.0)
    demand = known.demand()
    assert (demand["a", STAGE].num_items, demand["a", STAGE].num_unplaced) == (1, 0)
    assert (demand["b", STAGE].num_unplaced, demand["b", STAGE].unplaced) == (1, WORK)
    known.went(waiting, "b0", 1.0)
    assert known.demand()["b", STAGE].num_unplaced == 0


def test_how_long_a_pool_takes_to_start_is_learned_and_then_weighed() -> None:
    known = table(asleep=0, busy=1)
    known.heard("busy", news("busy0", 0), 0.0)
    known.sent(STAGE, "asleep", "", WORK, 0.0)
    known.members("asleep", [Member("asleep0", 64)], lambda replica: None, 20.0)
    known.members("asleep", [], lambda replica: None, 30.0)
    pools = ["asleep", "busy"]
    for count, chosen in ((0, "busy"), (1000, "asleep")):
        known.heard("busy", news("busy0", count, number=2 + count), 30.0)
        found = known.ranked(STAGE, pools, URGENT, 30.0)
        assert found is not None
        assert found.best.pool == chosen


def test_what_waits_for_a_pool_to_start_and_how_long_it_has_waited_count_there() -> None:
    known = table(asleep=0, busy=1)
    before = known.sent(STAGE, "asleep", "", WORK, 0.0)
    known.members("asleep", [Member("asleep0", 64)], lambda replica: None, 20.0)
    known.members("asleep", [], lambda replica: None, 30.0)
    known.heard("busy", news("busy0", 300), 30.0)

    def chosen(now: float) -> str:
        found = known.ranked(STAGE, ["asleep", "busy"], URGENT, now)
        assert found is not None
        return found.best.pool

    first = known.sent(STAGE, "asleep", "", WORK, 30.0)
    assert chosen(30.0) == "asleep"
    sent = [known.sent(STAGE, "asleep", "", WORK, 30.0) for _ in range(300)]
    assert chosen(30.0) == "busy"
    for one in sent:
        known.ended(one)
    assert chosen(30.0) == "asleep"
    known.heard("busy", news("busy0", 300, number=2), 200.0)
    assert chosen(200.0) == "busy"  # nobody has woken it
    for one in (first, before):
        known.ended(one)
    assert chosen(200.0) == "asleep"


def test_who_gave_up_tells_nothing_of_how_long_a_pool_takes_to_start() -> None:
    known = table(asleep=0)
    known.ended(known.sent(STAGE, "asleep", "", WORK, 0.0))
    known.members("asleep", [Member("asleep0", 64)], lambda replica: None, 3600.0)
    assert known._pools["asleep"].starts_in_s is None
    known.members("asleep", [], lambda replica: None, 4000.0)
    gave_up = known.sent(STAGE, "asleep", "", WORK, 4000.0)
    known.sent(STAGE, "asleep", "", WORK, 5000.0)
    known.ended(gave_up)
    known.members("asleep", [Member("asleep1", 64)], lambda replica: None, 5020.0)
    assert known._pools["asleep"].starts_in_s == 20.0  # since the one that waits still


def test_what_ended_on_another_thread_while_it_was_placed_leaves_nothing_behind() -> None:
    known = table(a=1)
    sent = known.sent(STAGE, "a", "", WORK, 0.0, name=7)
    known.ended(sent)
    known.went(sent, "a0", 1.0)
    stage = known._stages[STAGE]
    assert not stage.making
    assert not stage.open
    assert all(candidate.num_sent == 0 for candidate in stage.known.values())


def test_what_is_sent_to_a_replica_that_has_just_gone_keeps_no_place_for_it() -> None:
    known = table(a=2)
    sent = [known.sent(STAGE, "a", "a0", WORK, 0.0)]
    known.members("a", [Member("a1", 64)], lambda replica: None, 1.0)
    sent += [known.sent(STAGE, "a", "a0", WORK, 2.0), known.sent(STAGE, "a", "", WORK, 2.0)]
    known.went(sent[-1], "a0", 3.0)
    assert ("a", "a0") not in known._stages[STAGE].known
    known.members("a", [Member("a0", 64), Member("a1", 64)], lambda replica: None, 4.0)
    known.sent(STAGE, "a", "a0", WORK, 5.0)
    for one in sent:
        known.ended(one)
    assert known._stages[STAGE].known["a", "a0"].num_sent == 1


def test_of_many_replicas_a_sample_is_looked_at_with_the_holder_and_the_names_owner() -> None:
    known = table(a=1000)
    known.heard("a", news("a123", 0, holds=[7]), 0.0)
    seen: Counter[str] = Counter()
    wanted = Wanted(Work(100.0, 100.0), Hints((7,), Work(90.0, 90.0)), name=99)
    own = max((f"a{number}" for number in range(1000)), key=lambda replica: weight(99, seed_of(replica)))
    for _ in range(50):
        stage = known._stages[STAGE]
        candidates = known._candidates(stage, known._roster(stage, ("a",)), stage.holders.of(wanted.hints), wanted, 0.0)
        assert len(candidates) <= 16
        seen.update({one.replica for one in candidates})
    assert seen["a123"] == seen[own] == 50
    assert len(seen) > 400  # the rest are others each time
    found = known.ranked(STAGE, ["a"], wanted, 0.0)
    assert found is not None
    assert found.best.replica == "a123"


def test_what_names_are_owned_by_is_worked_out_again_only_for_pools_whose_members_changed() -> None:
    known = table(a=20, b=20)
    stage = known._stage(STAGE)
    before = {pools: known._roster(stage, pools) for pools in (("a",), ("b",), ("a", "b"))}
    members = [Member(f"a{number}", 32) for number in range(20)]
    known.members("a", members, lambda replica: None, 1.0)
    assert all(known._roster(stage, pools) is found for pools, found in before.items())
    known.members("a", members[1:], lambda replica: None, 2.0)
    assert known._roster(stage, ("b",)) is before["b",]
    assert [len(known._roster(stage, pools).candidates) for pools in (("a",), ("a", "b"))] == [19, 39]


def test_what_very_many_hold_adds_only_few_candidates() -> None:
    known = table(a=1000)
    for number in range(200):
        known.heard("a", news(f"a{number}", 0, holds=[7]), 0.0)
    stage = known._stages[STAGE]
    chosen = known._some(stage, known._roster(stage, ("a",)), stage.holders.of(Hints((7,), WORK)), URGENT)
    assert len(chosen) <= 16
    assert sum(7 in one.news.holds for one in chosen[:MAX_HOLDERS] if one.news is not None) == MAX_HOLDERS


@pytest.mark.parametrize("count", [2, 20])
def test_only_pools_that_were_asked_for_are_looked_at_whatever_others_hold_or_make(count: int) -> None:
    known = table(new=count, old=count)
    known.heard("old", news("old0", 0, holds=[7]), 0.0)
    known.heard("unannounced", news("nobody", 0, holds=[7]), 0.0)
    known.sent(STAGE, "old", "old1", WORK, 0.0, name=99)
    for name in (None, 99):
        found = known.ranked(STAGE, ["new", "unannounced"], Wanted(WORK, Hints((7,), WORK), name=name), 0.0)
        assert found is not None
        assert found.best.pool == "new"
        assert found.runner_up is not None
        assert found.runner_up.pool == "new"


def test_those_that_were_tried_are_left_out_while_there_are_others() -> None:
    known = table(a=2)
    for without, expected in ((["a0"], "a1"), (["a1"], "a0")):
        found = known.ranked(STAGE, ["a"], URGENT, 0.0, without=without)
        assert found is not None
        assert found.best.replica == expected
    assert known.ranked(STAGE, ["a"], URGENT, 0.0, without=["a0", "a1"]) is not None


def test_what_is_being_made_for_one_is_waited_for_there_by_all_who_want_it() -> None:
    known = table(a=4)
    wanted = Wanted(Work(1.0), name=7)
    first = known.ranked(STAGE, ["a"], wanted, 0.0)
    assert first is not None
    sent = [known.sent(STAGE, "a", first.best.replica, Work(1.0), 0.0, name=7)]
    for _ in range(50):
        found = known.ranked(STAGE, ["a"], wanted, 0.0)
        assert found is not None
        assert found.best.replica == first.best.replica
        sent.append(known.sent(STAGE, "a", found.best.replica, Work(1.0), 0.0, name=7))
    assert known.demand()["a", STAGE].work == Work(1.0)  # it is made once
    elsewhere = known.ranked(STAGE, ["a"], wanted, 0.0, without=[first.best.replica])
    assert elsewhere is not None
    assert elsewhere.best.replica != first.best.replica
    for one in sent:
        known.ended(one)
    assert not known._stages[STAGE].making


def test_stages_of_one_replica_that_share_its_device_make_one_another_slower_and_others_do_not() -> None:
    known = table(a=2)
    for number, (stage, device, is_shared) in enumerate(
        [(STAGE, "gpu", True), ("m.beside", "gpu", True), ("m.apart", "cpu", True), ("m.alone", "gpu", False)]
    ):
        told = replace(news("a0", 0 if stage == STAGE else 50), stage=stage, device=device, is_shared=is_shared)
        known.heard("a", replace(told, number=number + 1), 0.0)
    one = known._stages[STAGE].known["a", "a0"]
    assert [other.news.stage for other in one.others if other.news is not None] == ["m.beside"]
    found = known.ranked(STAGE, ["a"], URGENT, 0.0)
    assert found is not None
    assert found.best.replica == "a1"
    known.members("a", [Member("a1", 64)], lambda replica: None, 1.0)
    known.members("a", [Member("a0", 64), Member("a1", 64)], lambda replica: None, 2.0)
    known.heard("a", replace(news("a0", 0, number=9), is_shared=True), 3.0)
    assert not known._stages[STAGE].known["a", "a0"].others  # the one that was called so before is gone


def test_what_is_sent_to_a_stage_counts_at_once_where_others_share_its_device() -> None:
    known = table(a=1)
    for stage in (STAGE, "m.beside"):
        known.heard("a", replace(news("a0", 0), stage=stage, is_shared=True), 0.0)
    before = known.ranked(STAGE, ["a"], URGENT, 0.1)
    sent = known.sent("m.beside", "a", "a0", WORK * 20, 0.1)
    after = known.ranked(STAGE, ["a"], URGENT, 0.1)
    assert before is not None
    assert after is not None
    assert after.finish_s == pytest.approx(2 * before.finish_s)
    known.ended(sent)
    again = known.ranked(STAGE, ["a"], URGENT, 0.1)
    assert again is not None
    assert again.finish_s == pytest.approx(before.finish_s)


@pytest.mark.parametrize("count", [16, 1000])
def test_however_many_there_are_no_more_is_asked_than_of_sixteen(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the cost model, of Serve, and of chance: by counting, whatever the machine does beside it."""
    asked: Counter[str] = Counter()
    done_s, source = Speed.done_s, random.Random(1)

    def counted(self: Speed, work: Work, waits_s: float, beside: float, lasts: float) -> float:
        asked["cost model"] += 1
        return done_s(self, work, waits_s, beside, lasts)

    def draw() -> float:
        asked["chance"] += 1
        return source.random()

    def ongoing(replica: str) -> int:
        asked["Serve"] += 1
        return 0

    known = ReplicaTable(draw)
    known.members("a", [Member(f"a{number}", 64) for number in range(count)], ongoing, 0.0)
    for number in range(count):
        known.heard("a", news(f"a{number}", number % 20), 0.0)
    known.ranked(STAGE, ["a"], Wanted(WORK, name=7), 0.1)
    monkeypatch.setattr(Speed, "done_s", counted)
    for name in (None, 7):
        asked.clear()
        assert known.ranked(STAGE, ["a"], Wanted(WORK, name=name), 0.1) is not None
        assert asked["cost model"] <= 2 * 16 + 4  # each once, those near the soonest also alone
        assert asked["Serve"] <= 2
        assert asked["chance"] <= 5


PROMPT = Work(160.0, 24.0)
"""Read in 15 steps of 0.2 s, and answered in 9 short ones."""
LONG = Hints((1, 2, 3, 4), Work(50.0, 5.0))
ALSO_LONG = Wanted(PROMPT, replace(LONG, chain=(1, 2, 3, 99)))


def beside_a_reader(*, slowness: float = 1.0, then: int = 0) -> ReplicaTable:
    """a0 was given a long prompt at 0.0, and `then` others. a1 has nothing to do."""
    known = table(a=2)
    known.heard("a", news("a0", times=slowness), 0.0)
    known.heard("a", news("a1"), 0.0)
    known.sent(STAGE, "a", "a0", PROMPT, 0.0, hints=LONG)
    for _ in range(then):
        known.sent(STAGE, "a", "a0", PROMPT, 0.0)
    return known


def test_who_begins_as_another_does_is_sent_where_that_is_being_read_already() -> None:
    found = beside_a_reader().ranked(STAGE, ["a"], ALSO_LONG, 0.0)
    assert found is not None
    assert (found.best.replica, found.remembered) == ("a0", ("150 of its beginning",))
    assert found.reasons[0] == "its beginning is being read there"


@pytest.mark.parametrize(("now", "reading_s"), [(0.0, 3.0), (1.0, 2.0), (2.5, 0.5), (60.0, 0.0)])
def test_it_ends_no_sooner_than_what_it_waits_for_has_been_read(now: float, reading_s: float) -> None:
    known = beside_a_reader()
    known.heard("a", news("a1", number=2), now)
    found = known.ranked(STAGE, ["a"], replace(ALSO_LONG, priority=-1), now, without=["a1"])
    assert found is not None
    answers_s = speed().after(Work(10.0, 9.0), speed().ahead(Work(10.0, 9.0), 1))
    assert reading_s + 0.9 < found.finish_s < reading_s + 1.2 * answers_s + 0.1


def test_a_faster_device_reads_it_again_where_that_is_sooner() -> None:
    found = beside_a_reader(slowness=3.0).ranked(STAGE, ["a"], ALSO_LONG, 0.0)
    assert found is not None
    assert (found.best.replica, found.remembered) == ("a1", ())


def test_where_there_is_more_to_do_than_reading_it_again_takes_it_is_read_again() -> None:
    found = beside_a_reader(then=20).ranked(STAGE, ["a"], ALSO_LONG, 0.0)
    assert found is not None
    assert found.best.replica == "a1"


def test_what_is_urgent_waits_for_nobody_who_ends_later() -> None:
    found = beside_a_reader().ranked(STAGE, ["a"], replace(ALSO_LONG, priority=-1), 0.0)
    assert found is not None
    assert found.best.replica == "a1"


def test_who_went_elsewhere_begins_there_and_what_is_remembered_by_name_is_nowhere_until_it_is_there() -> None:
    known = table(a=2)
    sent = known.sent(STAGE, "a", "a0", PROMPT, 0.0, hints=LONG)
    known.went(sent, "a1", 0.1)
    holders = known._stages[STAGE].holders
    assert [one.replica for one in holders.of(LONG).holders()] == ["a1"] * 4
    known.ended(sent)
    known.sent(STAGE, "a", "a0", PROMPT, 0.2, hints=replace(LONG, is_kept_by_name=True))
    known.sent(STAGE, "a", "a0", PROMPT, 0.2, hints=LONG, name=7)
    known.sent(STAGE, "a", "", PROMPT, 0.2, hints=LONG)
    assert not holders.of(LONG).beginnings


def test_what_was_begun_and_what_is_told_are_held_by_whoever_did_either() -> None:
    known = table(a=3)
    known.heard("a", news("a0", holds=[2]), 0.0)
    begun = [known.sent(STAGE, "a", "a1", PROMPT, 0.0, hints=replace(LONG, chain=(1, 2))) for _ in range(2)]
    held = known._stages[STAGE].holders

    def at() -> dict[str, int]:
        found = held.of(LONG)
        candidates = known._stages[STAGE].known.values()
        return {one.replica: length for one in candidates if (length := found.length_at(one))}

    assert at() == {"a0": 2, "a1": 2}
    known.ended(begun[0])
    assert at() == {"a0": 2, "a1": 2}
    known.ended(begun[1])
    assert at() == {"a0": 2}


def test_what_begun_where_nobody_is_any_more_ends_all_the_same() -> None:
    known = table(a=2)
    sent = [known.sent(STAGE, "a", "a0", PROMPT, 0.0, hints=LONG) for _ in range(2)]
    known.members("a", [Member("a1", 64)], lambda replica: None, 1.0)
    found = known.ranked(STAGE, ["a"], Wanted(PROMPT, LONG), 1.0)
    assert found is not None
    assert found.best.replica == "a1"
    known.went(sent[0], "a1", 2.0)
    for one in sent:
        known.ended(one)
        known.ended(one)
    assert not known._stages[STAGE].holders.of(LONG).beginnings
    known.went(known.sent(STAGE, "a", "", PROMPT, 3.0, hints=LONG), "a0", 3.0)
    assert ("a", "a0") not in known._stages[STAGE].known  # of whom nobody is told that it is gone, nobody forgets

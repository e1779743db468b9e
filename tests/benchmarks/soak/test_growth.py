"""Whether something grows, whose it is, and what is still in hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.soak.growth import MIB, Owner, Sample, grown, in_hand, slope, tasks, whose
from pipelines.commands.stage_rows import Scrape, scrape_of

NUMBERS = st.floats(-1e3, 1e3)


def page(*lines: str) -> Scrape:
    return scrape_of("\n".join(lines) + "\n", 0.0)


@given(NUMBERS, NUMBERS, st.lists(st.floats(0, 1e3), min_size=2, max_size=20, unique_by=lambda x: round(x, 1)))
def test_a_straight_line_has_its_own_slope(rise: float, start: float, xs: list[float]) -> None:
    assert slope([(x, start + rise * x) for x in xs]) == pytest.approx(rise, abs=1e-3)


def test_a_step_up_and_back_down_is_no_growth() -> None:
    assert slope([(0, 1), (1, 5), (2, 5), (3, 1)]) == pytest.approx(0)


def test_one_moment_has_no_slope() -> None:
    assert slope([]) == slope([(1, 5)]) == slope([(1, 5), (1, 9)]) == 0.0


def test_the_first_minutes_do_not_count() -> None:
    loading = [Sample(at, 10 * MIB * at, 5, 2) for at in range(0, 60, 10)]
    then = [Sample(at, 600 * MIB + at / 60 * 2 * MIB, 5 + at // 60, 2) for at in range(60, 600, 10)]
    found = grown(7, "ray::ServeReplica:soak-llm-1:llm", [*loading, *then], warm_s=60, least_s=300)
    assert found is not None
    assert found.mib_a_minute == pytest.approx(2.0)
    assert found.files_a_minute == pytest.approx(1.0, rel=0.02)
    assert found.threads_a_minute == 0
    assert (found.owner, found.name, found.num_threads) == (Owner.OURS, "llm", 2)


def test_warming_up_is_from_when_the_process_was_first_seen() -> None:
    samples = [Sample(at, (100 if at >= 1060 else 0) * MIB, 5, 2) for at in range(1000, 1600, 10)]
    found = grown(7, "valkey-server", samples, warm_s=60, least_s=300)
    assert found is not None
    assert found.mib_a_minute == pytest.approx(0)


def test_who_was_there_for_too_short_a_time_is_left_out() -> None:
    samples = [Sample(at, MIB, 5, 2) for at in range(0, 200, 10)]
    assert grown(7, "raylet", samples, warm_s=60, least_s=200) is None
    assert grown(7, "raylet", samples, warm_s=600, least_s=0) is None


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("ray::ServeReplica:soak-llm-8f3a:llm", (Owner.OURS, "llm")),
        ("ray::ServeReplica:soak:ingress.handle_request", (Owner.OURS, "ingress")),
        ("python -S -E /x/pipelines/cluster/fork_server.py stages", (Owner.OURS, "fork server")),
        ("/x/valkey-server unixsocket:/tmp/redis.sock", (Owner.OURS, "Redis server")),
        ("/x/python -m pipelines.cli serve", (Owner.OURS, "triptych serve")),
        ("ray::ProxyActor", (Owner.RAY, "ProxyActor")),
        ("ray::ServeController.run_control_loop", (Owner.RAY, "ServeController")),
        ("/x/raylet/raylet --raylet_socket_name=", (Owner.RAY, "raylet")),
        ("/x/gcs_server --log", (Owner.RAY, "gcs_server")),
    ],
)
def test_processes_are_told_apart(command: str, expected: tuple[Owner, str]) -> None:
    assert whose(command) == expected


def test_the_scrape_itself_is_not_in_hand() -> None:
    assert in_hand(page("triptych_http_requests_running 1")) == {}
    assert in_hand(page("triptych_http_requests_running 3")) == {"triptych_http_requests_running": 2}


def test_what_any_replica_has_left_is_in_hand() -> None:
    left = page(
        'triptych_stage_running{stage="m.llm",replica="a"} 1',
        'triptych_stage_running{stage="m.llm",replica="b"} 2',
        'triptych_stage_queued{stage="m.llm",replica="a"} 0',
        'triptych_stage_items_total{stage="m.llm",replica="a"} 70',
    )
    assert in_hand(left) == {"triptych_stage_running": 3}


def test_tasks_are_compared_of_replicas_that_were_there_both_times() -> None:
    before = page(
        'triptych_stage_event_loop_tasks{pool="llm",replica="a"} 12',
        'triptych_stage_event_loop_tasks{pool="vae",replica="b"} 9',
        'triptych_http_event_loop_tasks{replica="i"} 20',
    )
    after = page(
        'triptych_stage_event_loop_tasks{pool="llm",replica="a"} 13',
        'triptych_stage_event_loop_tasks{pool="vae",replica="c"} 9',
        'triptych_http_event_loop_tasks{replica="i"} 21',
    )
    assert tasks(before, after) == {"llm a": (12, 13), "ingress i": (20, 21)}

"""From what clients saw to what is told of a fault."""

import base64
import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks.faults.__main__ import APPLICATION, PAGE, goals
from benchmarks.faults.comparing import is_same
from benchmarks.faults.kinds import FAULTS
from benchmarks.faults.outcome import Struck, drawn, errors, merged, row
from benchmarks.faults.trial import tells_of_stages
from benchmarks.faults.two_nodes import HEAD, SECOND, of_two_nodes
from benchmarks.mixed.asked import Asked
from benchmarks.mixed.requests import Kind, Request
from benchmarks.mixed.server import config
from benchmarks.reporting.page import written
from benchmarks.reporting.report import Report, Value, rows_of
from benchmarks.servers.triptych import shipped_config
from pipelines.commands.stage_rows import scrape_of
from pipelines.settings.config_file import parse

STRUCK = Struck("kill -9 of it", at=10.0, back_s=5.0)


def asked(sent_at: float, ended_at: float, kind: Kind = Kind.GREEDY, **more: Any) -> Asked:
    request = Request(kind, 0, "/", {"stream": kind is not Kind.EMBEDDING})
    return Asked(request, sent_at, more.pop("heard", [ended_at]), ended_at=ended_at, **more)


def test_what_was_through_before_and_what_came_after_is_not_concerned() -> None:
    found = row(STRUCK, [asked(1, 9), asked(16, 17), asked(9, 11), asked(12, 14)], until=15.0, compared={})
    assert (found["in_flight"], found["sent_meanwhile"]) == (1, 1)


def test_failed_is_what_has_no_answer_and_asked_again_what_has_one_in_the_end() -> None:
    those = [asked(9, 11, error="500"), asked(12, 14, tries=2), asked(12, 14, tries=3, error="503"), asked(12, 14)]
    found = row(STRUCK, those, until=15.0, compared={})
    assert (found["failed"], found["failed_in_flight"], found["asked_again"]) == (2, 1, 1)


def test_resumed_are_streams_whose_replica_ended_and_that_came_to_their_end() -> None:
    those = [
        asked(9, 20, lost=["m.llm"]),
        asked(9, 20, lost=["m.llm"], error="cut"),
        asked(9, 20, Kind.EMBEDDING, lost=["m.embedder"]),
        asked(9, 20),
    ]
    assert row(STRUCK, those, until=15.0, compared={})["resumed"] == 1


def test_a_pause_counts_from_the_fault_on_and_the_usual_one_is_from_before() -> None:
    those = [asked(1, 3, heard=[2, 3]), asked(2, 22, heard=[9, 20, 22]), asked(11, 12, heard=[11.5, 12])]
    found = row(STRUCK, those, until=15.0, compared={})
    assert (found["pause_s"], found["usual_pause_s"]) == (10.0, 1.0)


def test_texts_and_paintings_are_told_apart_and_none_is_not_all() -> None:
    compared = {Kind.GREEDY: [True, False], Kind.IMAGE_CHAT: [True], Kind.PAINTING: [True]}
    found = row(STRUCK, [], until=15.0, compared=compared)
    assert (found["greedy_same"], found["seeded_same"], found["painting_same"]) == ("2 of 3", None, "1 of 1")


def test_a_part_that_does_not_come_back_is_told_as_such() -> None:
    assert row(Struck("x", 1.0, None), [], until=200.0, compared={})["back_s"] is None


def test_one_other_text_misses_the_goal() -> None:
    report = Report("faults", {}, [{"greedy_same": "2 of 3", "seeded_same": None}, {"greedy_same": "4 of 4"}])
    (goal,) = goals(report)
    assert goal.measured == pytest.approx(6 / 7)
    assert not goal.is_met
    assert goals(Report("faults", {}, [{"greedy_same": None}])) == []


def test_errors_are_told_once_the_commonest_first() -> None:
    those = [asked(1, 2, error="b"), asked(1, 2, error="a"), asked(1, 2, error="a"), asked(1, 2)]
    assert errors(those) == ["greedy stream: a", "greedy stream: b"]


def test_one_fault_asked_again_takes_the_place_of_what_was_known_of_it() -> None:
    known: list[dict[str, Value]] = [{"fault": "a", "failed": 1}, {"fault": "gone", "failed": 0}, {"fault": "b", "failed": 1}]
    assert merged(known, [{"fault": "b", "failed": 0}], ["a", "b", "c"]) == [
        {"fault": "a", "failed": 1},
        {"fault": "b", "failed": 0},
    ]


def test_images_are_the_same_but_for_two_levels() -> None:
    def encoded(level: int) -> str:
        file = io.BytesIO()
        Image.fromarray(np.full((4, 4, 3), level, np.uint8)).save(file, "PNG")
        return base64.b64encode(file.getvalue()).decode()

    assert is_same(Kind.PAINTING, encoded(100), encoded(102))
    assert not is_same(Kind.PAINTING, encoded(100), encoded(103))
    assert not is_same(Kind.GREEDY, "one two", "one  two")


def test_faults_have_names_and_words_of_their_own() -> None:
    assert len({fault.name for fault in FAULTS}) == len({fault.what for fault in FAULTS}) == len(FAULTS)


def test_every_replica_that_is_struck_is_of_a_deployment_of_the_served_configuration() -> None:
    app = parse(config(APPLICATION)["applications"][0]["args"])
    replicas = {fault.name for fault in FAULTS if "replica" in fault.what or fault.what.endswith("'s")} - {
        "stopped-llm",
        "disk-llm",
    }
    assert replicas - {"ingress", "proxy", "controller"} == set(app.placement())
    assert all(deployment.num_replicas == 1 for deployment in app.placement().values())


def test_of_two_nodes_each_has_every_stage() -> None:
    app = parse(of_two_nodes(shipped_config()))
    for node in (HEAD, SECOND):
        there = [each for each in app.placement().values() if node in each.ray_actor_options.resources]
        assert sorted(stage for each in there for stage in each.stages) == sorted(app.stage_names())


def test_metrics_that_tell_of_no_stages_are_not_back() -> None:
    up, stages = "triptych_stage_metrics_up 1\n", 'triptych_stage_batch_bound_items{stage="m.llm"} 4\n'
    assert tells_of_stages(scrape_of(up + stages, 0.0))
    assert not tells_of_stages(scrape_of(up, 0.0))
    assert not tells_of_stages(scrape_of(up.replace("1", "0") + stages, 0.0))
    assert not tells_of_stages(scrape_of("", 0.0))


def test_the_docs_tell_what_was_measured() -> None:
    page = PAGE.read_text()
    assert written(page, "faults", drawn(rows_of("faults"))) == page


def test_a_page_without_its_place_is_refused() -> None:
    with pytest.raises(ValueError, match="must hold"):
        written("no place here", "faults", "table")

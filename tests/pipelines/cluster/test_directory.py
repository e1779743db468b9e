"""What is told of stages, of what their replicas say."""

from pipelines.cluster.directory import computing, serving
from stages.contract.item import StageMetrics


def test_what_a_stage_computes_with_is_told_by_who_hosts_it_and_not_by_who_asked_it() -> None:
    encoder = StageMetrics("m.vision_encoder", "encoder", "cuda", "float16", {})
    asked = StageMetrics("m.vision_encoder", "llm", "cpu", "float32", {}, is_hosted=False)
    llm = StageMetrics("m.llm", "llm", "cpu", "float32", {})
    told = {"m.vision_encoder": ("cuda", "float16"), "m.llm": ("cpu", "float32")}
    assert computing([encoder, llm, asked]) == computing([llm, asked, encoder]) == told
    assert computing([asked]) == {}


def test_replicas_that_a_new_controller_has_yet_to_hear_from_still_serve() -> None:
    assert serving({"RUNNING": 1, "RECOVERING": 2, "STARTING": 4, "STOPPING": 8}) == 3
    assert serving({}) == 0

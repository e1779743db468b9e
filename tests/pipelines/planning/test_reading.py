"""What inventories and workloads say, and what of it is refused."""

from pathlib import Path
from typing import Any

import pytest

from pipelines.commands.console import DEFAULT_CONFIG
from pipelines.planning.fleet import GIB, Slo
from pipelines.planning.reading.described import request_classes
from pipelines.planning.reading.inventory import inventory, read_inventory
from pipelines.planning.reading.profiled import fleet
from pipelines.planning.reading.workload import read_workload, workload
from pipelines.settings.config_file import load
from pipelines.settings.schema.config import AppConfig
from stages.contract.errors import ConfigurationError
from stages.contract.work import Work
from stages.profiles.profile import Point, StageProfile
from stages.profiles.profile_files import Profiles

LLM = "triptych-see.llm"


@pytest.fixture
def config() -> AppConfig:
    return load(DEFAULT_CONFIG).app


def classes(config: AppConfig, slo: tuple[str, ...] = (), **described: dict[str, Any]) -> Any:
    return {each.name: each for each in request_classes(workload({"classes": described}, "mix.yaml", slo), config)}


def test_devices_come_in_the_order_of_their_names_with_their_datasheets_memory() -> None:
    found = inventory({"devices": {"L4": {"count": 12, "per_node": 4}, "H100": {"count": 2}}}, "cluster.yaml")
    assert [device.name for device in found] == ["H100", "L4"]
    assert found[1].memory_bytes == 24e9
    assert found[1].found_by == {"accelerator_type": "L4"}
    assert found[1].num_nodes == 3


def test_nodes_without_gpus_are_found_by_their_labels() -> None:
    given = {"count": 3, "gpu": False, "device": "cpu", "memory_gib": 8, "label_selector": {"speed": "slow"}}
    (device,) = inventory({"devices": {"slow": given}}, "cluster.yaml")
    assert device.found_by == {"label_selector": {"speed": "slow"}}
    assert device.memory_bytes == 8 * GIB
    assert not device.is_gpu


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"devices": {"X9": {"count": 1}}}, r"cluster\.yaml: devices\.X9: no datasheet of 'X9' is known; give its memory_gib"),
        ({"devices": {"L4": {"number": 1}}}, r"cluster\.yaml: devices\.L4\.count: Field required"),
        ({"devices": {"c": {"count": 1, "gpu": False, "per_node": 2}}}, "a node without GPUs is one device"),
    ],
)
def test_an_inventory_that_means_nothing_is_refused(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        inventory(given, "cluster.yaml")


def test_files_that_hold_no_settings_are_refused_by_name(tmp_path: Path) -> None:
    for text, words in (("- 1", "holds no settings"), ("a: [", "not YAML")):
        (tmp_path / "file.yaml").write_text(text)
        with pytest.raises(ConfigurationError, match=f"file.yaml: {words}"):
            read_inventory(tmp_path / "file.yaml")
    with pytest.raises(ConfigurationError, match=r"none\.yaml: cannot be read"):
        read_workload(tmp_path / "none.yaml")


def test_a_chat_is_its_prompt_in_chunks_and_its_answer_token_by_token(config: AppConfig) -> None:
    chat = {
        "model": "triptych-see",
        "rate": 2,
        "prompt_tokens": 500,
        "images": 2,
        "image_tokens": 50,
        "image_patches": 49,
        "answer_tokens": 100,
    }
    see, llm = classes(config, chat=chat)["chat"].demands
    assert (see.stage, see.work, see.items) == ("triptych-see.vision_encoder", Work(49), 2)
    assert (llm.stage, llm.work, llm.first) == (LLM, Work(700, 103), Work(600, 3))


def test_what_is_remembered_is_no_work(config: AppConfig) -> None:
    chat = {
        "model": "triptych-see",
        "rate": 2,
        "prompt_tokens": 500,
        "images": 1,
        "image_tokens": 100,
        "remembered": {"vision_encoder": 0.75, "llm": 0.5},
    }
    see, llm = classes(config, chat=chat)["chat"].demands
    assert see.items == 0.25
    assert llm.first == Work(300, 2)


def test_a_painting_is_its_steps_times_positions_times_rows_and_then_its_pixels(config: AppConfig) -> None:
    paint = {"model": "triptych-paint", "rate": 1, "size": "512x256", "steps": 30, "images": 2, "edits": True}
    text, encode, denoise, decode = classes(config, paint=paint)["paint"].demands
    assert [each.stage.partition(".")[2] for each in (text, encode, denoise, decode)] == [
        "text_encoder",
        "vae_encoder",
        "denoiser",
        "vae_decoder",
    ]
    assert (denoise.work, denoise.items) == (Work(64 * 32 * 2 * 30, 30), 2)
    assert (decode.work, decode.items) == (Work(512 * 256), 2)
    assert encode.result_bytes == denoise.result_bytes == 64 * 32 * 16 * 4
    assert (text.result_bytes, decode.result_bytes) == (77 * 8192, 512 * 256 * 3)


def test_work_may_be_said_stage_by_stage(config: AppConfig) -> None:
    given = {"llm": {"amount": 10, "steps": 4, "first_amount": 6, "first_steps": 1, "result_bytes": 7}}
    (llm,) = classes(config, chat={"model": "triptych-see", "rate": 1, "work": given})["chat"].demands
    assert (llm.work, llm.first, llm.result_bytes) == (Work(10, 4), Work(6, 1), 7)


def test_a_bound_on_the_command_line_is_over_the_files(config: AppConfig) -> None:
    chat = {"model": "triptych-see", "rate": 1, "slo": {"token_s": 0.1, "total_s": 9}}
    assert classes(config, ("chat.token_s=0.05",), chat=chat)["chat"].slo == Slo(token_s=0.05, total_s=9)


@pytest.mark.parametrize("bound", ["chat.token_s", "chat.token_s=0", "chat.speed_s=1", "paint.token_s=1", "chat.token_s=nan"])
def test_a_bound_that_is_none_is_refused(bound: str) -> None:
    with pytest.raises(ConfigurationError, match=r"write CLASS\.SETTING=SECONDS, with one of chat"):
        workload({"classes": {"chat": {"model": "m", "rate": 1}}}, "mix.yaml", [bound])


@pytest.mark.parametrize(
    ("chat", "words"),
    [
        ({"model": "gpt"}, r"classes\.chat\.model: 'gpt' is not one of triptych-see"),
        (
            {"model": "triptych-see", "remembered": {"vae": 1}},
            r"classes\.chat\.remembered: 'vae' is not one of triptych-see's llm, vision_encoder",
        ),
        (
            {"model": "triptych-see", "remembered": {"llm": 2}},
            r"mix\.yaml: classes\.chat\.remembered\.llm: .* less than or equal to 1",
        ),
        ({"model": "triptych-see", "speed": 2}, r"mix\.yaml: classes\.chat\.speed"),
    ],
)
def test_a_class_of_what_there_is_not_is_refused(config: AppConfig, chat: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        classes(config, chat=chat | {"rate": 1})


def profile(
    stage: str, device: str = "NVIDIA L4", dtype: str = "bfloat16", seconds: float = 0.1, rows: int = 32
) -> StageProfile:
    points = tuple(Point(count, 10.0 * count, seconds * count) for count in (1, rows))
    return StageProfile(stage, stage.partition(".")[2], "", "", device, dtype, points, GIB, 2**20)


def test_what_the_configuration_bounds_is_bounded_and_else_what_was_measured(config: AppConfig) -> None:
    devices = inventory({"devices": {"L4": {"count": 1}}}, "cluster.yaml")
    known = Profiles(tuple(profile(stage) for stage in config.stage_names()))
    found = fleet(config, devices, known, ()).measured
    assert found[LLM, "L4"].speed.max_rows == 8  # num_slots
    assert found["triptych-paint.denoiser", "L4"].speed.max_rows == 8  # batch.max_items
    assert found["triptych-paint.denoiser", "L4"].speed.max_amount == 16384
    free = config.models["triptych-clip"].parts()["embedder"].batch
    assert found["triptych-clip.embedder", "L4"].speed.max_rows == free.max_items == 32


def test_the_quickest_dtype_that_was_measured_on_a_device_counts_and_an_estimate_only_where_none_was(
    config: AppConfig,
) -> None:
    devices = inventory(
        {"devices": {"L4": {"count": 1}, "H100": {"count": 1}, "X": {"count": 1, "memory_gib": 1}}}, "cluster.yaml"
    )
    known = Profiles((profile(LLM), profile(LLM, dtype="float16", seconds=0.05)))
    found = fleet(config, devices, known, ())
    assert found.measured[LLM, "L4"].dtype == "float16"
    assert not found.measured[LLM, "L4"].speed.is_estimate
    assert found.measured[LLM, "H100"].speed.is_estimate
    assert (LLM, "X") not in found.measured
    assert found.why_not[LLM, "X"] == "no profile of it on X, and none to reckon one from"

"""Settings that fit each other: what is derived where the file is silent, and what is refused because it cannot work."""

from typing import Any

import pytest
from hypothesis import given as for_all
from hypothesis import strategies as st

from pipelines.settings.config_file import parse
from pipelines.settings.derived import (
    LINES,
    batch_items,
    capacity,
    default_max_tokens,
    derivations,
    faults,
    max_pixels,
)
from pipelines.settings.schema.config import AppConfig
from pipelines.settings.serve.specs import stage_specs
from stages.contract.errors import ConfigurationError
from stages.contract.limits import QueueLimits
from stages.engine.scheduling.room import Tally, has_room_for_another
from stages.llm.settings import LlmSettings

CLIP = {"demo": "clip"}


def config(llm: dict[str, Any] | None = None, home: dict[str, Any] | None = None, **more: Any) -> AppConfig:
    """A chat model with its LLM in a deployment of its own; unchecked."""
    part = {"source": {"demo": "smollm2"}} | (llm or {})
    deployment = {"stages": ["chat.llm"]} | (home or {})
    return AppConfig.model_validate(
        {"models": {"chat": {"pipeline": "image_text", "llm": part}}, "deployments": {"llm": deployment}} | more
    )


def painter(device: str | None = None, vae_device: str | None = None, **home: Any) -> AppConfig:
    """A painter whose denoiser and vae share a deployment; unchecked."""
    source: dict[str, Any] = {"source": {"demo": "painter"}}
    parts = {
        "text_encoder": source,
        "denoiser": source | ({"device": device} if device else {}),
        "vae_decoder": source | ({"device": vae_device} if vae_device else {}),
    }
    deployment = {"stages": ["paint.denoiser", "paint.vae_decoder"]} | home
    return AppConfig.model_validate(
        {"models": {"paint": {"pipeline": "text_to_image"} | parts}, "deployments": {"gpu": deployment}}
    )


def num_gpus(given: AppConfig, name: str = "gpu") -> float:
    return capacity(given.placement()[name], given).num_gpus


@pytest.mark.parametrize("num_slots", [1, 8, 64])
def test_an_llms_batch_is_its_slots_and_its_deployment_lets_that_in_and_what_its_queue_may_hold(num_slots: int) -> None:
    given = config({"num_slots": num_slots})
    assert stage_specs(given)["chat.llm"].batch.max_items == num_slots
    assert capacity(given.placement()["llm"], given).max_ongoing_requests == num_slots + 3 * 256
    assert faults(given) == []


def test_a_deployment_of_several_stages_has_room_for_all_that_may_wait_and_aims_at_the_largest_batch() -> None:
    given = parse(
        {
            "models": {"a": {"pipeline": "embed", "embedder": {"source": CLIP, "batch": {"max_items": 32}}}},
            "deployments": {"one": {"stages": ["a.embedder"], "autoscaling_config": {"max_replicas": 2}}},
        }
    )
    room = capacity(given.placement()["one"], given)
    assert (room.max_ongoing_requests, room.target_ongoing_requests) == (32 + 3 * 256, 32.0)
    shared = capacity(painter().placement()["gpu"], painter())
    assert (shared.max_ongoing_requests, shared.target_ongoing_requests) == (2 * (16 + 3 * 256), 16.0)


@for_all(st.integers(1, 300), st.integers(1, 10))
def test_what_a_full_queue_lets_in_of_ten_tenants_all_reaches_the_stage(max_items: int, num_tenants: int) -> None:
    """Serve's own line before a replica is in order of arrival, whoever waits in it."""
    line, limits = Tally[str](), QueueLimits(max_items)
    for tenant in map(str, range(num_tenants)):  # the worst order: each takes all that it is given before the next one comes
        while has_room_for_another(line, tenant, limits):
            line.add(tenant)
    assert line.items <= LINES * max_items + num_tenants


def test_a_target_that_is_given_is_let_in_or_refused_where_that_is_given_too() -> None:
    aimed = {"autoscaling_config": {"max_replicas": 2, "target_ongoing_requests": 40.5}}
    given = config({"queue": {"max_items": 4}, "num_slots": 4}, home=aimed)
    assert capacity(given.placement()["llm"], given).max_ongoing_requests == 41
    path = "deployments.llm.autoscaling_config.target_ongoing_requests: 40.5"
    assert [fault.startswith(path) for fault in faults(config(home=aimed | {"max_ongoing_requests": 16}))] == [True]


def test_what_is_given_is_taken_as_it_is() -> None:
    given = config(
        {"num_slots": 4, "batch": {"max_items": 4}, "prefill_chunk_tokens": 64},
        {"max_ongoing_requests": 5, "autoscaling_config": {"target_ongoing_requests": 3}},
        limits={"default_max_tokens": 7},
    )
    room, llm = capacity(given.placement()["llm"], given), given.models["chat"].parts()["llm"]
    assert (room.max_ongoing_requests, room.target_ongoing_requests, batch_items(llm)) == (5, 3.0, 4)
    assert default_max_tokens(given.limits) == 7
    assert faults(given) == []


def test_a_context_shorter_than_a_chunk_is_one_chunk() -> None:
    spec = stage_specs(config({"max_context_tokens": 64}))["chat.llm"]
    assert spec.settings == LlmSettings(num_slots=8, max_context_tokens=64, prefill_chunk_tokens=64)


def test_a_short_queue_makes_a_small_batch() -> None:
    given = parse({"models": {"a": {"pipeline": "embed", "embedder": {"source": CLIP, "queue": {"max_items": 3}}}}})
    assert stage_specs(given)["a.embedder"].batch.max_items == 3


@pytest.mark.parametrize(
    ("limits", "tokens"), [({}, 512), ({"max_tokens": 100}, 100), ({"max_tokens": 4096}, 512), ({"default_max_tokens": 9}, 9)]
)
def test_a_chat_without_a_bound_gets_the_default_within_the_limit(limits: dict[str, int], tokens: int) -> None:
    assert default_max_tokens(config(limits=limits).limits) == tokens


def test_sizes_over_the_usual_pixels_raise_their_bound() -> None:
    model = painter().models["paint"].model_copy(update={"sizes": ("2048x1024", "64x64")})
    assert max_pixels(model) == 2048 * 1024  # type: ignore[arg-type]
    assert max_pixels(model.model_copy(update={"sizes": ("64x64",)})) == 1_048_576  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "gpus"),
    [
        (painter(), 0),
        (painter("cuda"), 1),
        (painter("cuda", "cuda:0"), 1),
        (painter("cuda:0", "cuda:1"), 2),
        (painter("cuda", "cpu", ray_actor_options={"num_gpus": 0.5}), 0.5),
        (painter(ray_actor_options={"num_gpus": 1}), 1),
        (painter("cuda:0", "cuda:1", ray_actor_options={"num_gpus": 2}), 2),
    ],
)
def test_a_deployment_takes_the_gpus_that_its_stages_name(given: AppConfig, gpus: float) -> None:
    assert num_gpus(given) == gpus
    assert faults(given) == []


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (painter(ray_actor_options={"num_gpus": 2}), "compute on 1: a stage computes on one device; at most 1"),
        (painter("cuda", "cuda", ray_actor_options={"num_gpus": 2}), "compute on 1"),
        (painter("cuda:0", "cuda:1", ray_actor_options={"num_gpus": 4}), "compute on 2: a stage computes on one device"),
        (
            painter("cuda:0", "cuda:1", ray_actor_options={"num_gpus": 1}),
            "paint.vae_decoder without its device cuda:1; at least 2",
        ),
        (painter("cuda", ray_actor_options={"num_gpus": 0}), "paint.denoiser without its device cuda; at least 1"),
        (painter("cpu", "cpu", ray_actor_options={"num_gpus": 1}), "pays for what no stage uses"),
    ],
)
def test_gpus_that_do_not_fit_the_stages_are_refused(given: AppConfig, told: str) -> None:
    found = faults(given)
    assert len(found) == 1, found
    assert found[0].startswith("deployments.gpu.ray_actor_options.num_gpus: ")
    assert told in found[0]


def test_gpus_beside_the_http_surface_are_checked_too() -> None:
    given = {"models": {"a": {"pipeline": "embed", "embedder": {"source": CLIP}}}}
    home = {"stages": ["a.embedder"], "ray_actor_options": {"num_gpus": 2}}
    with pytest.raises(ConfigurationError, match=r"ingress\.ray_actor_options\.num_gpus: 2, but a\.embedder compute on 1"):
        parse(given | {"ingress": home})


def test_an_ingress_that_lets_less_than_a_batch_of_its_own_stages_in_is_refused() -> None:
    given = {"models": {"a": {"pipeline": "embed", "embedder": {"source": CLIP}}}}
    with pytest.raises(ConfigurationError, match=r"ingress\.max_ongoing_requests: 8 is less than one batch of a\.embedder"):
        parse(given | {"ingress": {"stages": ["a.embedder"], "max_ongoing_requests": 8}})


@pytest.mark.parametrize("kept", [{"keep_steps": [0.5]}, {"remember_images": True}], ids=lambda kept: next(iter(kept)))
def test_what_is_painted_is_kept_only_where_there_is_a_cache_for_it(kept: dict[str, Any]) -> None:
    source: dict[str, Any] = {"source": {"demo": "painter"}}
    parts = dict.fromkeys(("text_encoder", "denoiser", "vae_decoder"), source)
    given: dict[str, Any] = {"models": {"paint": {"pipeline": "text_to_image", **parts, **kept}}}
    assert faults(AppConfig.model_validate(given)) == []
    (fault,) = faults(AppConfig.model_validate(given | {"cache": {"kv": None}}))
    assert fault.startswith(f"models.paint.{next(iter(kept))}: nothing that is painted is kept where cache.kv is null")


def test_every_fault_is_told_at_once() -> None:
    given = config({"num_slots": 8, "batch": {"max_items": 4}, "prefill_chunk_tokens": 9999}, {"max_ongoing_requests": 2})
    with pytest.raises(ConfigurationError) as refusal:
        parse(given)
    for path in (
        "models.chat.llm.batch.max_items",
        "models.chat.llm.prefill_chunk_tokens",
        "deployments.llm.max_ongoing_requests",
    ):
        assert path in refusal.value.message


def test_what_was_derived_is_told_and_what_was_given_is_not() -> None:
    told = "\n".join(derivations(config({"num_slots": 24}, {"autoscaling_config": {"max_replicas": 2}})))
    assert "models.chat.llm.batch.max_items: 24 (num_slots)" in told
    assert "deployments.llm.max_ongoing_requests: 792 (a full batch of every stage, and its queue" in told
    assert "deployments.llm.autoscaling_config.target_ongoing_requests: 24 (" in told
    assert "limits.default_max_tokens: 512" in told
    assert "limits.pixels_in_flight: 50000000 (2 x image_pixels)" in told
    assert "limits.request_pixels: 100000000 (4 x image_pixels)" in told
    assert "limits.body_bytes_in_flight: 536870912 (16 x body_bytes)" in told
    assert "ingress.max_queued_requests: 1000 (" in told
    assert "num_gpus" not in told
    given = config({"batch": {"max_items": 8}}, {"max_ongoing_requests": 20}, limits={"default_max_tokens": 64})
    told = "\n".join(derivations(given))
    assert all(name not in told for name in ("batch.max_items", "max_ongoing_requests", "default_max_tokens"))
    assert "paint.default_steps: the checkpoint's own" in "\n".join(derivations(painter()))


def test_where_results_go_elsewhere_and_pages_nowhere_that_is_told() -> None:
    elsewhere = {"url": "redis://cache:6379/0"}
    assert "cache.kv.redis: none (" in "\n".join(derivations(config(cache={"redis": elsewhere})))
    for cache in ({}, {"redis": None}, {"redis": elsewhere, "kv": {"redis": elsewhere}}, {"redis": elsewhere, "kv": None}):
        assert "cache.kv" not in "\n".join(derivations(config(cache=cache)))

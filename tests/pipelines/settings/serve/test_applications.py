"""What of the configuration becomes which Serve application, and so what restarts with what."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines.settings.config_file import load, parse, serve_document
from pipelines.settings.derived import capacity
from pipelines.settings.schema.config import AppConfig
from pipelines.settings.serve.applications import (
    REDIS_BUILDER,
    STAGES_BUILDER,
    RedisArgs,
    StagesArgs,
    StagesSettings,
    SurfaceArgs,
    SurfaceSettings,
    applications,
    stages_name,
    version_of,
)
from pipelines.settings.serve.specs import stage_specs
from stages.contract.errors import ConfigurationError
from stages.contract.limits import QueueLimits
from tests.pipelines.settings.shipped import SHIPPED

FILE = load(SHIPPED)


def document(name: str) -> dict[str, Any]:
    (found,) = [app for app in serve_document(FILE)["applications"] if app["name"] == name]
    return dict(found)


def name_of(deployment: str, app_name: str = "triptych") -> str:
    return stages_name(app_name, deployment, FILE.app)


def test_each_deployment_is_an_application_and_so_are_the_surface_and_both_redis() -> None:
    names = {app.name for app in applications(FILE.app, "triptych")}
    assert names == {"triptych", "triptych-scaler", "triptych-redis", "triptych-redis-kv", *map(name_of, FILE.app.placement())}


def test_only_who_computes_in_pages_remembers_any() -> None:
    found = {
        app.import_path and next(iter(app.deployments)): StagesArgs.model_validate(app.args).spec()
        for app in applications(FILE.app, "triptych")
        if app.import_path == STAGES_BUILDER
    }
    assert {name for name, spec in found.items() if spec.pages is not None} == {"llm", "denoiser"}
    llm = found["llm"]
    assert llm.pages is not None
    assert llm.pages.redis is not None
    assert llm.cache.redis is not None
    assert llm.pages.redis.embedded != llm.cache.redis.embedded
    assert (llm.pages.memory_bytes, llm.cache.memory_bytes) == (268435456, 134217728)


def test_only_the_surface_has_a_route() -> None:
    routes = {app.name: app.route_prefix for app in applications(FILE.app, "triptych")}
    assert {name for name, route in routes.items() if route} == {"triptych"}


def test_what_is_written_is_json_and_is_read_back_as_it_was() -> None:
    for app in applications(FILE.app, "triptych"):
        read = json.loads(json.dumps(app.document({}), allow_nan=False))
        assert yaml.safe_load(yaml.safe_dump(read)) == read
    stages = document(name_of("llm"))
    (llm,) = StagesArgs.model_validate(stages["args"]).spec().stages
    wanted = stage_specs(FILE.app)["triptych-see.llm"]
    queues = StagesSettings.model_validate(stages["deployments"][0]["user_config"]).queues
    assert (llm.source, llm.options, llm.batch, llm.settings) == (wanted.source, wanted.options, wanted.batch, wanted.settings)
    assert queues["triptych-see.llm"].limits() == wanted.queue
    seen = SurfaceSettings.model_validate(document("triptych")["deployments"][0]["user_config"]).config
    assert (seen.limits, seen.auth, seen.fetch) == (FILE.app.limits, FILE.app.auth, FILE.app.fetch)
    assert {name: home.stages for name, home in seen.placement().items()} == {
        name: home.stages for name, home in FILE.app.placement().items()
    }
    assert SurfaceArgs.model_validate(document("triptych")["args"]).own is None
    servers = [RedisArgs.model_validate(document(name)["args"]) for name in ("triptych-redis", "triptych-redis-kv")]
    assert [server.max_memory_bytes for server in servers] == [268435456, 536870912]
    assert [server.deployment for server in servers] == ["redis", "redis-kv"]
    assert len({server.name for server in servers}) == 2


def elsewhere(config: AppConfig) -> dict[str, dict[str, list[tuple[str, str]]]]:
    """Deployment -> the stages that it needs, and where each of them is."""
    told = {
        name: StagesSettings.model_validate(given["user_config"]).elsewhere
        for app in applications(config, "t")
        if app.import_path == STAGES_BUILDER
        for name, given in app.deployments.items()
    }
    return {
        name: {stage: [(at.deployment, at.application) for at in pools] for stage, pools in stages.items()}
        for name, stages in told.items()
    }


def test_a_deployment_is_told_where_the_stages_are_that_its_own_ones_need() -> None:
    where = elsewhere(FILE.app)
    assert {name: where[name] for name in ("llm", "denoiser", "vae")} == {
        "llm": {"triptych-see.vision_encoder": [("vision-encoder", name_of("vision-encoder", "t"))]},
        "denoiser": {
            "triptych-paint.text_encoder": [("text-encoder", name_of("text-encoder", "t"))],
            "triptych-paint.vae_encoder": [("vae", name_of("vae", "t"))],
        },
        "vae": {},
    }


def test_the_surface_is_told_where_every_stage_is() -> None:
    given = document("triptych")["deployments"][0]["user_config"]["stages"]
    assert set(given) == set(FILE.app.stage_names())
    assert given["triptych-see.llm"] == [{"deployment": "llm", "application": name_of("llm")}]


def test_stages_that_live_with_the_surface_come_with_it() -> None:
    args = FILE.app.model_dump(mode="json")
    del args["deployments"]["clip"]
    config = parse(args | {"ingress": {"stages": ["triptych-clip.embedder"]}})
    *_, surface = applications(config, "triptych")
    own = SurfaceArgs.model_validate(surface.args).own
    assert own is not None
    assert [stage.name for stage in own.spec().stages] == ["triptych-clip.embedder"]
    settings = SurfaceSettings.model_validate(surface.deployments["ingress"]["user_config"])
    assert "triptych-clip.embedder" not in settings.stages
    assert list(settings.queues) == ["triptych-clip.embedder"]


def test_serves_own_settings_are_what_was_derived() -> None:
    (given,) = document(name_of("denoiser"))["deployments"]
    room = capacity(FILE.app.placement()["denoiser"], FILE.app)
    assert given["max_ongoing_requests"] == room.max_ongoing_requests == 8 + 3 * 128  # all that may wait has room
    assert given["max_surge_percent"] > 0
    assert not {"num_replicas", "autoscaling_config"} & set(given)  # which are the scaler's
    assert document(name_of("denoiser"))["external_scaler_enabled"]


def test_serves_own_queue_before_the_surface_is_bounded_and_refuses_with_429() -> None:
    given = applications(FILE.app, "t")[-1].deployments["ingress"]
    assert given["max_queued_requests"] == given["max_ongoing_requests"] == 1000
    assert given["backpressure_config"] == {"status_code": 429, "retry_after_s": 1.0}
    ingress = FILE.app.ingress.model_copy(update={"max_queued_requests": 7})
    few = applications(FILE.app.model_copy(update={"ingress": ingress}), "t")[-1]
    assert few.deployments["ingress"]["max_queued_requests"] == 7


def test_how_many_pixels_stages_decode_at_a_time_may_change_while_they_run() -> None:
    limits = FILE.app.limits.model_copy(update={"image_pixels": 1000})
    apps = applications(FILE.app.model_copy(update={"limits": limits}), "t")
    (encoder,) = [app.deployments["vision-encoder"] for app in apps if "vision-encoder" in app.deployments]
    assert StagesSettings.model_validate(encoder["user_config"]).pixels_in_flight == 2000


def test_replicas_that_leave_may_finish_the_longest_request() -> None:
    def timeouts(config: AppConfig) -> set[float]:
        overrides = [
            given for app in applications(config, "t") for given in app.deployments.values() if app.name != "t-scaler"
        ]
        return {given["graceful_shutdown_timeout_s"] for given in overrides}

    longest = FILE.app.limits.model_copy(update={"max_request_s": 1234.0})
    assert timeouts(FILE.app.model_copy(update={"limits": longest})) == {1244.0}
    llm = FILE.app.deployments["llm"].model_copy(update={"graceful_shutdown_timeout_s": 5.0})
    assert timeouts(FILE.app.model_copy(update={"deployments": {**FILE.app.deployments, "llm": llm}})) == {5.0, 610.0}


def test_where_redis_is_is_told_to_whoever_keeps_something_there_and_its_secret_to_nobody_who_looks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TRIPTYCH_TEST_REDIS", "redis://:secret@cache:6379/0")
    args = FILE.app.model_dump(mode="json")
    config = parse(args | {"cache": {"redis": {"url_env": "TRIPTYCH_TEST_REDIS"}}})
    documents = {app.name: json.dumps(app.document({})) for app in applications(config, "triptych")}
    assert "triptych-redis" not in documents
    assert not [name for name, text in documents.items() if "secret" in text]
    assert {name for name, text in documents.items() if "TRIPTYCH_TEST_REDIS" not in text} == {"triptych-scaler"}
    plain = parse(args | {"cache": {"redis": {"url": "redis://cache:6379/0"}}})
    assert applications(plain, "triptych")[-1].deployments["ingress"]["user_config"]["kept"]["url"] == "redis://cache:6379/0"


def test_a_redis_of_ones_own_is_no_application() -> None:
    config = parse(FILE.app.model_dump(mode="json") | {"cache": {"redis": {"url": "redis://cache:6379/0"}}})
    assert not {app.name for app in applications(config, "triptych")} & {"triptych-redis", "triptych-redis-kv"}


def test_no_server_is_run_for_pages_that_nobody_computes_in() -> None:
    args = FILE.app.model_dump(mode="json")
    models = {"triptych-clip": args["models"]["triptych-clip"]}
    config = parse({"models": models})
    assert [app.name for app in applications(config, "t") if app.import_path == REDIS_BUILDER] == ["t-redis"]


def test_settings_have_a_version() -> None:
    assert version_of({"a": 1, "b": 2}) == version_of({"b": 2, "a": 1})
    assert version_of({"a": 1}) != version_of({"a": 2})


def test_what_else_is_in_the_file_stays(tmp_path: Path) -> None:
    given = yaml.safe_load(SHIPPED.read_text())
    other = {"name": "other", "import_path": "elsewhere:app", "route_prefix": "/other"}
    given["applications"][0]["runtime_env"] = {"env_vars": {"A": "b"}}
    given["applications"].append(other)
    path = tmp_path / "serve_config.yaml"
    path.write_text(yaml.safe_dump(given))
    made = serve_document(load(path))
    assert made["proxy_location"] == "HeadOnly"
    assert made["applications"][-1] == other
    assert all(app["runtime_env"] == {"env_vars": {"A": "b"}} for app in made["applications"][:-1])


def test_serves_list_of_deployments_is_refused_beside_args(tmp_path: Path) -> None:
    given = yaml.safe_load(SHIPPED.read_text())
    given["applications"][0]["deployments"] = [{"name": "llm", "num_replicas": 3}]
    path = tmp_path / "serve_config.yaml"
    path.write_text(yaml.safe_dump(given))
    with pytest.raises(ConfigurationError, match=r"set these under args\.deployments"):
        load(path)


def test_the_whole_of_every_stages_settings_reaches_its_replica() -> None:
    specs = {
        spec.name: spec
        for app in applications(FILE.app, "t")
        if app.import_path.endswith(":stages")
        for spec in StagesArgs.model_validate(json.loads(json.dumps(app.args))).spec().stages
    }
    wanted = {name: replace(spec, queue=QueueLimits()) for name, spec in stage_specs(FILE.app).items()}
    assert specs == wanted


def test_a_short_queues_small_batch_stays_small() -> None:
    config = parse(
        {"models": {"a": {"pipeline": "embed", "embedder": {"source": {"demo": "clip"}, "queue": {"max_items": 3}}}}}
    )
    _, hosted, _ = applications(config, "t")
    (spec,) = StagesArgs.model_validate(hosted.args).spec().stages
    assert spec.batch.max_items == 3

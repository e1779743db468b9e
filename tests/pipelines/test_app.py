"""The applications that Serve is asked to build, without a cluster: which deployments, with which of Serve's settings."""

from pathlib import Path
from typing import Any

import pytest
from ray.serve._private.build_app import build_app

from pipelines.app import build, checked_settings, surface
from pipelines.cluster.scaling.scaler_deployment import scaler
from pipelines.cluster.stage_deployment import redis, stages
from pipelines.settings.config_file import load
from pipelines.settings.schema.auth import AuthConfig, KeyConfig
from pipelines.settings.serve.applications import (
    REDIS_BUILDER,
    STAGES_BUILDER,
    SURFACE_BUILDER,
    RedisArgs,
    ServeApplication,
    StagesArgs,
    SurfaceArgs,
    applications,
    stages_name,
)
from pipelines.settings.serve.scaled import SCALER_BUILDER, ScalerArgs
from stages.contract.errors import ConfigurationError

CONFIG = load(Path(__file__).parents[2] / "serve_config.yaml").app
BUILDERS: dict[str, Any] = {
    SURFACE_BUILDER: lambda args: surface(SurfaceArgs.model_validate(args)),
    STAGES_BUILDER: lambda args: stages(StagesArgs.model_validate(args)),
    REDIS_BUILDER: lambda args: redis(RedisArgs.model_validate(args)),
    SCALER_BUILDER: lambda args: scaler(ScalerArgs.model_validate(args)),
}


def deployed(application: Any, name: str = "a") -> dict[str, Any]:
    """Name -> deployment."""
    return {deployment.name: deployment for deployment in build_app(application, name=name).deployments}


def built(application: ServeApplication) -> dict[str, Any]:
    return deployed(BUILDERS[application.import_path](dict(application.args)))


def test_an_application_has_the_deployments_that_its_settings_are_for() -> None:
    made = {application.name: set(built(application)) for application in applications(CONFIG, "triptych")}
    assert made == {
        "triptych": {"ingress", "metrics"},
        "triptych-scaler": {"scaler"},
        "triptych-redis": {"redis"},
        "triptych-redis-kv": {"redis-kv"},
        **{stages_name("triptych", name, CONFIG): {name} for name in CONFIG.placement()},
    }


def test_as_one_application_everything_has_the_same_settings() -> None:
    """`serve run serve_config.yaml`."""
    whole = deployed(build(CONFIG))
    assert set(whole) == {"ingress", "metrics", "redis", "redis-kv", *CONFIG.placement()}
    denoiser = whole["denoiser"]
    scaling = denoiser._deployment_config.autoscaling_config
    assert (scaling.min_replicas, scaling.max_replicas, scaling.target_ongoing_requests) == (1, 2, 6)
    assert scaling.policy.policy_function == "pipelines.cluster.scaling.autoscaling:by_engines_load"
    assert (denoiser.max_ongoing_requests, denoiser.max_queued_requests) == (392, 256)
    assert denoiser.user_config["queues"] == {"triptych-paint.denoiser": {"max_items": 128}}
    asked = denoiser.user_config["elsewhere"]
    assert asked["triptych-paint.vae_encoder"] == [{"deployment": "vae", "application": ""}]  # of the application itself
    assert denoiser._deployment_config.max_surge_percent > 0
    assert "config" in whole["ingress"].user_config


def test_replicas_of_a_stage_take_what_is_configured() -> None:
    (llm,) = [found for application in applications(CONFIG, "t") if (found := built(application).get("llm"))]
    assert llm.ray_actor_options["num_cpus"] == 0.3
    assert "py_executable" in llm.ray_actor_options["runtime_env"]


def test_settings_that_cannot_work_are_refused_before_anything_is_deployed() -> None:
    deployments = dict(CONFIG.deployments) | {"llm": CONFIG.deployments["llm"].model_copy(update={"max_ongoing_requests": 1})}
    with pytest.raises(ConfigurationError, match="max_ongoing_requests: 1"):
        build(CONFIG.model_copy(update={"deployments": deployments}))


def test_without_keys_nothing_is_built_where_serve_listens_to_strangers(monkeypatch: pytest.MonkeyPatch) -> None:
    """`serve run` and `serve deploy`, whose config's `http_options` the application is not told, and a Serve that runs already."""
    monkeypatch.setattr("pipelines.app.listening_host", lambda: "0.0.0.0")
    with pytest.raises(ConfigurationError, match=r"host '0\.0\.0\.0' is not loopback, and auth\.keys is empty"):
        build(CONFIG)
    keys = AuthConfig(keys=(KeyConfig(tenant="ada", sha256="0" * 64),))
    assert "ingress" in deployed(build(CONFIG.model_copy(update={"auth": keys})))


def test_the_http_surface_refuses_settings_without_keys_where_serve_listens_to_strangers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """However it was deployed, and where keys are taken away while it runs."""
    monkeypatch.setattr("pipelines.app.listening_host", lambda: "192.168.1.2")
    (surface,) = [found for found in applications(CONFIG, "t") if found.route_prefix]
    with pytest.raises(ConfigurationError, match=r"auth\.keys is empty"):
        checked_settings(surface.deployments["ingress"]["user_config"])


@pytest.mark.parametrize("way", ["RAY_SERVE_ENABLE_HA_PROXY", "RAY_SERVE_ENABLE_DIRECT_INGRESS"])
def test_serves_ways_past_its_own_proxy_are_refused_by_name_however_it_is_deployed(
    way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`serve run`; `serve deploy`, `triptych deploy` and KubeRay; and a replica whose node alone has it on."""
    monkeypatch.setattr(f"ray.serve._private.constants.{way}", True)
    (root,) = [found for found in applications(CONFIG, "t") if found.route_prefix]
    with pytest.raises(ConfigurationError, match=way):
        build(CONFIG)
    with pytest.raises(ConfigurationError, match=way):
        built(root)
    with pytest.raises(ConfigurationError, match=way):
        checked_settings(root.deployments["ingress"]["user_config"])

"""The configuration is strict: what it refuses, it refuses with path, value and what is allowed."""

import importlib
from typing import Any

import pytest

from pipelines.settings.config_file import load, parse
from pipelines.settings.schema.config import AppConfig
from pipelines.settings.schema.remembering import KINDS
from pipelines.settings.serve.applications import StagesArgs, SurfaceArgs, applications
from pipelines.settings.serve.specs import cache_spec, pages_spec, stage_specs
from stages.contract.errors import ConfigurationError
from stages.contract.result import Result
from tests.pipelines.settings.shipped import SHIPPED, changed, shipped_args

KEY_A = {"tenant": "a", "sha256": "0" * 64}


EMPTY = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_the_shipped_file_is_sound_and_every_stage_but_the_vaes_halves_has_its_own_deployment() -> None:
    file = load(SHIPPED)
    assert file.http.host == "127.0.0.1"
    placed = [stage for deployment in file.app.placement().values() for stage in deployment.stages]
    assert sorted(placed) == sorted(file.app.stage_names())
    shared = [deployment.stages for deployment in file.app.placement().values() if len(deployment.stages) > 1]
    assert shared == [("triptych-paint.vae_decoder", "triptych-paint.vae_encoder")]


REFUSED = [
    ("deployments.llm.num_gpu", 1, ["deployments.llm.num_gpu", "Extra inputs"]),
    ("deployments.llm.autoscaling_config.min_replicas", 3, ["min_replicas 3", "max_replicas 2"]),
    ("deployments.llm.autoscaling_config.max_replicas", 0, ["max_replicas", "greater than or equal to 1", "0"]),
    ("deployments.llm.num_replicas", 2, ["num_replicas or autoscaling_config, not both"]),
    ("deployments.llm.stages", ["triptych-see.lm"], ["'triptych-see.lm'", "triptych-see.llm"]),
    ("deployments.llm.stages", ["triptych-see.llm", "triptych-see.llm"], ["'triptych-see.llm' is there twice"]),
    ("deployments.llm.stages", [], ["deployments.llm.stages", "at least 1"]),
    ("ingress", {"stages": ["triptych-see.llm"]}, ["ingress.stages", "'triptych-see.llm'", "deployments.llm, too"]),
    ("ingress", {"stages": ["triptych-see.lm"]}, ["ingress.stages", "'triptych-see.lm'", "triptych-see.llm"]),
    ("deployments.llm.ray_actor_options.num_gpus", 1.5, ["1.5 GPUs", "fraction"]),
    ("deployments.redis", {"stages": ["triptych-see.llm"]}, ["redis is taken by Triptych itself"]),
    ("models.triptych-see.llm.dtype", "int8", ["dtype", "'float32', 'bfloat16' or 'float16'", "int8"]),
    ("models.triptych-see.llm.device", "tpu", ["device", "tpu"]),
    (
        "models.triptych-see.llm.source",
        {"demo": "smollm2", "folder": "/x"},
        ["exactly one of demo, folder, hub", "demo, folder"],
    ),
    ("models.triptych-see.llm.source", {}, ["exactly one of demo, folder, hub", "none"]),
    ("models.triptych-see.llm.source", {"hub": "no-slash"}, ["hub", "no-slash"]),
    ("models.triptych-see.vision_encoder.projector", None, ["projector is needed with loader open_clip"]),
    ("models.triptych-see.pipeline", "chat", ["'image_text', 'text_to_image', 'embed'"]),
    ("models.triptych-paint.sizes", ["64"], ["'64' is not a size", "512x512"]),
    ("models.triptych-paint.default_steps", 200, ["default_steps 200", "max_steps 150"]),
    ("models.triptych-paint.default_strength", 0, ["default_strength", "greater than 0"]),
    ("models.triptych-paint.keep_steps", [5, 0], ["keep_steps", "0 is neither a step (5) nor a part", "remember_images"]),
    ("models.triptych-paint.keep_steps", [1.0], ["keep_steps", "1.0 is neither a step (5) nor a part", "remember_images"]),
    ("models.triptych-paint.keep_steps", [-0.5], ["keep_steps", "-0.5 is neither"]),
    ("models.triptych-paint.vae_encoder", {}, ["vae_encoder", "source", "required"]),
    ("models.triptych-paint.denoiser.batch", {"max_items": 0}, ["max_items", "greater than or equal to 1"]),
    ("models.triptych-see.llm.max_step_s", 0, ["max_step_s", "greater than 0"]),
    ("cache.redis", {"url": "memcached://x"}, ["cache.redis.url", "redis://", "rediss://"]),
    ("cache.redis", {"url": "redis://x", "url_env": "X"}, ["cache.redis", "one of url, url_env, url_file"]),
    ("cache.redis", {"url_env": "X", "url_file": "/x"}, ["cache.redis", "one of url, url_env, url_file"]),
    ("cache.redis", {"cluster": True}, ["cache.redis", "cluster is for a server elsewhere"]),
    ("cache.redis", {"url": "unix:///x", "cluster": True}, ["cache.redis", "redis:// or rediss://"]),
    ("cache.redis", {"ttl_s_of": {"photo": 1}}, ["cache.redis.ttl_s_of", "photo", "vision_features", "kv_page"]),
    ("cache.redis", {"ttl_s_of": {"latents": 0}}, ["cache.redis.ttl_s_of.latents", "greater than 0"]),
    ("cache.kv", {"redis": {"url": "redis://:pw@cache"}}, ["cache.kv.redis.url", "which Serve would show"]),
    ("cache.kv", {"memory": 1}, ["cache.kv.memory", "Extra inputs"]),
    ("deployments.redis-kv", {"stages": ["triptych-see.llm"]}, ["redis-kv is taken by Triptych itself"]),
    ("cache.redis", {"url": "redis://:pw@cache"}, ["cache.redis.url", "which Serve would show", "url_env or url_file"]),
    ("cache.redis", {"url": "rediss://cache/0?password=pw"}, ["cache.redis.url", "url_env or url_file"]),
    ("cache.memory_bytes", -5, ["cache.memory_bytes", "-5"]),
    ("limits.default_request_s", 900, ["default_request_s 900", "max_request_s"]),
    ("auth", {"keys": [{"tenant": "a"}]}, ["exactly one of sha256, env, file"]),
    ("auth", {"keys": [{"tenant": "a", "env": "A", "file": "/a"}]}, ["exactly one of sha256, env, file"]),
    ("auth", {"keys": [{"tenant": "a", "sha256": EMPTY}]}, ["auth.keys.0.sha256", "an empty key"]),
    ("auth", {"keys": [KEY_A, KEY_A | {"tenant": "b"}], "secret_env": "X"}, ["tenants a and b have the same key"]),
    (
        "auth",
        {"keys": [{"tenant": tenant, "env": "K"} for tenant in "ab"], "secret_env": "X"},
        ["tenants a and b have the same key"],
    ),
    (
        "auth",
        {"keys": [KEY_A, {"tenant": "default", "env": "K"}], "secret_env": "X"},
        ["keys: beside others no tenant is called default"],
    ),
    ("auth", {"secret_env": "A", "secret_file": "/a"}, ["secret_env or secret_file, not both"]),
    ("auth", {"quotas": {"default": {}}}, ["quotas: no key is of tenant default"]),
    ("auth", {"keys": [KEY_A], "quotas": {"a": {}, "eve": {}}}, ["quotas: no key is of tenant eve"]),
    ("auth", {"keys": [KEY_A], "quotas": {"a": {"requests": 3}}}, ["auth.quotas.a.requests"]),
    ("auth", {"keys": [KEY_A], "quotas": {"a": {"requests_per_minute": 0}}}, ["auth.quotas.a.requests_per_minute", "0"]),
    ("auth", {"keys": [KEY_A], "quotas": {"a": {"device_seconds_per_minute": 0}}}, ["a.device_seconds_per_minute"]),
    ("auth", {"keys": [KEY_A], "quotas": {"a": {"device_seconds_per_minute": float("nan")}}}, ["a.device_seconds_per_minute"]),
    ("auth", {"keys": [KEY_A], "quotas": {"a": {"concurrent_requests": 1.5}}}, ["auth.quotas.a.concurrent_requests"]),
    ("auth", {"keys": [KEY_A], "quotas": {"a": {"highest_priority": -11}}}, ["auth.quotas.a.highest_priority", "-11"]),
    ("traffic", {"triptych-see": {"triptych-hear": 1}}, ["traffic.triptych-see: triptych-hear is not one of"]),
    ("traffic", {"triptych-hear": {"triptych-see": 1}}, ["traffic.triptych-hear: triptych-hear is not one of"]),
    ("traffic", {"triptych-see": {"triptych-paint": 1}}, ["triptych-paint is of pipeline text_to_image, triptych-see of"]),
    ("traffic", {"triptych-see": {"triptych-see": 0}}, ["traffic.triptych-see: no model has a weight over 0"]),
    ("traffic", {"triptych-see": {}}, ["traffic.triptych-see: no model has a weight over 0"]),
    ("traffic", {"triptych-see": {"triptych-see": -1}}, ["traffic.triptych-see.triptych-see", "greater than or equal to 0"]),
    ("traffic", {"triptych-see": {"triptych-see": float("nan")}}, ["traffic.triptych-see.triptych-see"]),
    ("auth", {"keys": [{"tenant": "a", "sha256": "0" * 64}, {"tenant": "b", "sha256": "1" * 64}]}, ["secret_env"]),
    ("models", {}, ["models", "at least 1"]),
    (
        "deployments.llm.max_ongoing_requests",
        4,
        ["deployments.llm.max_ongoing_requests: 4", "triptych-see.llm (num_slots 8)", "at least 8, better 16"],
    ),
    (
        "models.triptych-see.llm.batch",
        {"max_items": 4},
        ["llm.batch.max_items: 4 beside num_slots 8", "4 slots that never run"],
    ),
    (
        "models.triptych-see.llm.batch",
        {"max_items": 9},
        ["llm.batch.max_items: 9 beside num_slots 8", "1 rows that never find"],
    ),
    ("models.triptych-see.llm.prefill_chunk_tokens", 4096, ["prefill_chunk_tokens: 4096", "max_context_tokens 2048"]),
    ("models.triptych-see.vision_encoder.queue", {"max_items": 4}, ["batch.max_items: 16", "queue.max_items is 4"]),
    ("models.triptych-paint.max_pixels", 1024, ["models.triptych-paint.sizes: 64x64 has 4096 pixels", "max_pixels 1024"]),
    (
        "deployments.text-encoder.max_ongoing_requests",
        16,
        [
            "deployments.text-encoder.max_ongoing_requests: 16",
            "triptych-paint.text_encoder (batch.max_items 32)",
            "at least 32",
        ],
    ),
    ("ingress", {"stages": [], "max_ongoing_requests": 0}, ["ingress.max_ongoing_requests", "0"]),
    ("deployments.llm.ray_actor_options.num_gpus", 2, ["num_gpus: 2", "triptych-see.llm compute on 1", "one device"]),
    (
        "deployments.llm.ray_actor_options",
        {"num_gpus": 2},
        ["deployments.llm.ray_actor_options.num_gpus: 2", "cuda:0, cuda:1"],
    ),
    ("models.triptych-see.llm.device", "cuda:1", ["num_gpus: 2", "compute on 1"]),
    ("limits.pixels_in_flight", 0, ["limits.pixels_in_flight", "greater than or equal to 1"]),
    (
        "limits",
        {"body_bytes": 4096, "body_bytes_in_flight": 2048},
        ["limits.body_bytes_in_flight: 2048", "limits.body_bytes 4096", "at least that"],
    ),
    (
        "limits",
        {"image_pixels": 4096, "pixels_in_flight": 2048},
        ["limits.pixels_in_flight: 2048", "limits.image_pixels 4096", "at least that"],
    ),
    ("limits.request_pixels", 0, ["limits.request_pixels", "greater than or equal to 1"]),
    (
        "limits",
        {"image_pixels": 4096, "request_pixels": 2048},
        ["limits.request_pixels: 2048", "limits.image_pixels 4096", "at least that"],
    ),
    ("limits", {"max_tokens": 100, "default_max_tokens": 200}, ["limits.default_max_tokens: 200", "limits.max_tokens 100"]),
]


@pytest.mark.parametrize(("path", "value", "told"), REFUSED, ids=[f"{path}={str(value)[:24]}" for path, value, _ in REFUSED])
def test_an_impossible_setting_is_refused_with_path_value_and_what_is_allowed(path: str, value: Any, told: list[str]) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        parse(changed(path, value))
    for words in told:
        assert words in refusal.value.message


def test_a_stage_that_no_deployment_names_gets_one_of_its_own() -> None:
    args = shipped_args()
    del args["deployments"]["llm"]
    assert parse(args).placement()["triptych-see-llm"].stages == ("triptych-see.llm",)


EMBEDDER = {"pipeline": "embed", "embedder": {"source": {"demo": "clip"}}}


@pytest.mark.parametrize(
    ("args", "told"),
    [
        ({"models": {"a/b": EMBEDDER, "a-b": EMBEDDER}}, ["a-b.embedder", "'a-b-embedder'", "so would a/b.embedder"]),
        (
            {
                "models": {"one": EMBEDDER, "two": EMBEDDER},
                "deployments": {"one-embedder": {"stages": ["two.embedder"]}},
            },
            ["one.embedder", "'one-embedder'", "deployments has it"],
        ),
    ],
)
def test_a_stage_whose_own_deployment_would_take_anothers_name_is_refused(args: dict[str, Any], told: list[str]) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        parse(args)
    for words in told:
        assert words in refusal.value.message


def test_a_name_is_free_once_its_stages_are_placed() -> None:
    config = parse({"models": {"a/b": EMBEDDER, "a-b": EMBEDDER}, "deployments": {"first": {"stages": ["a/b.embedder"]}}})
    placed = {name: deployment.stages for name, deployment in config.placement().items()}
    assert placed == {"first": ("a/b.embedder",), "a-b-embedder": ("a-b.embedder",)}


def test_several_stages_may_share_a_deployment() -> None:
    args = shipped_args()
    for name in ("text-encoder", "denoiser", "vae"):
        del args["deployments"][name]
    parts = ["triptych-paint.text_encoder", "triptych-paint.denoiser", "triptych-paint.vae_decoder"]
    args["deployments"]["paint"] = {"stages": parts}
    (paint,) = [app for app in applications(parse(args), "test") if app.name.startswith("test-paint-")]
    spec = StagesArgs.model_validate(paint.args).spec()
    assert [stage.name for stage in spec.stages] == parts


def test_stages_may_live_with_the_http_surface() -> None:
    args = shipped_args()
    del args["deployments"]["llm"]
    args["ingress"] = {"stages": ["triptych-see.llm"], "torch_threads": 2}
    config = parse(args)
    assert all("triptych-see.llm" not in deployment.stages for deployment in config.placement().values())
    surface = SurfaceArgs.model_validate(applications(config, "test")[-1].args)
    assert surface.own is not None
    spec = surface.own.spec()
    assert ([stage.name for stage in spec.stages], spec.torch_threads) == (["triptych-see.llm"], 2)


def test_a_setting_reaches_the_stage_it_is_for() -> None:
    config = parse(changed("models.triptych-paint.denoiser.batch", {"max_items": 3, "max_cost": 17}))
    spec = stage_specs(config)["triptych-paint.denoiser"]
    assert (spec.batch.max_items, spec.batch.max_cost) == (3, 17)
    assert stage_specs(config)["triptych-see.llm"].settings is not None


def test_redis_may_be_embedded_elsewhere_or_off() -> None:
    shipped, other = (cache_spec(parse(shipped_args()), name).redis for name in "ab")
    assert shipped is not None
    assert other is not None
    assert (shipped.url, bool(shipped.embedded), shipped.embedded != other.embedded) == (None, True, True)
    elsewhere = cache_spec(parse(changed("cache.redis", {"url": "redis://cache:6379/0"})), "a").redis
    assert elsewhere is not None
    assert (elsewhere.url, elsewhere.embedded) == ("redis://cache:6379/0", None)
    assert cache_spec(parse(changed("cache.redis", None)), "a").redis is None


ELSEWHERE = {"url": "redis://cache:6379/0"}


@pytest.mark.parametrize(
    ("cache", "wanted"),
    [
        ({}, "embedded"),
        ({"redis": {"max_memory_bytes": 2**30}}, "embedded"),
        ({"kv": {"memory_bytes": 0}}, "embedded"),
        ({"redis": ELSEWHERE}, None),
        ({"redis": ELSEWHERE, "kv": {"memory_bytes": 1}}, None),
        ({"redis": {"url_env": "X"}}, None),
        ({"redis": None}, None),
        ({"redis": None, "kv": {"redis": {}}}, "embedded"),
        ({"redis": ELSEWHERE, "kv": {"redis": {"url": "embedded"}}}, "embedded"),
        ({"kv": {"redis": None}}, None),
        ({"kv": {"redis": {"url": "redis://pages:6379/0"}}}, "redis://pages:6379/0"),
    ],
)
def test_pages_have_a_redis_of_their_own_where_it_is_embedded_or_given(cache: dict[str, Any], wanted: str | None) -> None:
    config = parse(changed("cache", cache))
    assert AppConfig.model_validate(config.model_dump()) == config
    pages = pages_spec(config, "a")
    assert pages is not None
    found = pages.redis and (pages.redis.url or ("embedded" if pages.redis.embedded else None))
    assert found == wanted
    assert pages.redis is None or pages.redis.setting == "cache.kv.redis"


def test_pages_may_be_off() -> None:
    assert pages_spec(parse(changed("cache", {"kv": None})), "a") is None


def test_default_budgets_hold_several_long_prefixes_of_the_demo() -> None:
    """1,500 tokens of SmolLM2-135M in float32: 30 layers of keys and values, 3 heads of 64 numbers."""
    prefix = 1500 * 30 * 2 * 3 * 64 * 4
    shipped: dict[str, Any] = shipped_args()["cache"]
    for cache in ({}, shipped):
        kv = parse(changed("cache", cache)).cache.kv
        assert kv is not None
        assert kv.redis is not None
        assert kv.memory_bytes > 3 * prefix
        assert kv.redis.max_memory_bytes > 6 * prefix


def test_settings_of_what_is_kept_reach_the_tier() -> None:
    given = {"ttl_s": 10, "ttl_s_of": {"pixels": 5}, "part_bytes": 2048, "max_value_bytes": 4096}
    config = parse(changed("cache", {"redis": given, "kv": {"redis": {"ttl_s": 20}}}))
    spec, pages = cache_spec(config, "a").redis, pages_spec(config, "a")
    assert spec is not None
    assert (spec.ttl_s, spec.ttl_s_of, spec.part_bytes, spec.max_value_bytes) == (10, {"pixels": 5}, 2048, 4096)
    assert pages is not None
    assert pages.redis is not None
    assert (pages.redis.ttl_s, pages.redis.ttl_s_of) == (20, {})


def test_every_kind_of_result_is_a_kind_of_value() -> None:
    for module in ("stages.vision.messages", "stages.diffusion.messages", "stages.llm.messages"):
        importlib.import_module(module)
    results = [kind for kind in Result.__subclasses__() if kind.__module__.startswith("stages.")]
    assert {result.kind() for result in results} <= set(KINDS)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("cache.redis", {"url": "rediss:/:secret@cache:6379/0"}),
        ("cache.redis", {"url": "rediss//:secret"}),
        ("cache.redis", {"urls": "redis://:secret@cache:6379/0"}),
        ("cache.redis", {"url": ["redis://:secret@cache"]}),
        ("cache.redis", "redis://:secret@cache:6379/0"),
        ("limits.redis", "redis://:secret@cache:6379/0"),
        ("auth", {"keys": [{"tenant": "a", "sha256": "secret"}]}),
        ("auth", {"keys": [{"tenant": "a", "sha256": "0" * 63 + "-secret"}]}),
    ],
)
def test_a_secret_that_was_mistyped_is_not_told(path: str, value: object) -> None:
    with pytest.raises(ConfigurationError) as refused:
        parse(changed(path, value))
    assert path in refused.value.message
    assert "secret" not in refused.value.message


def test_the_url_of_redis_may_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    config = parse(changed("cache.redis", {"url_env": "TRIPTYCH_TEST_REDIS"}))
    assert AppConfig.model_validate(config.model_dump()) == config
    cache = cache_spec(config, "a")
    with pytest.raises(
        ConfigurationError, match=r"cache\.redis\.url_env: the environment variable TRIPTYCH_TEST_REDIS is not set"
    ):
        cache.open()
    monkeypatch.setenv("TRIPTYCH_TEST_REDIS", "redis://:secret/of@cache:6379/0")
    with pytest.raises(ConfigurationError, match=r"cache\.redis\.url_env: not the URL") as refused:
        cache.open()
    assert "secret" not in refused.value.message
    monkeypatch.setenv("TRIPTYCH_TEST_REDIS", "unix:///nowhere/redis.sock")
    opened = cache.open()
    assert opened.tier_names == ("memory", "redis")
    opened.close()

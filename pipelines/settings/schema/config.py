"""The configuration: what `serve_config.yaml` may say, strictly. An unknown or impossible setting is refused with its path, its
value and what is allowed.

Decides what may be said, and where (every role filled, every stage placed: with the HTTP surface, or in one deployment, or in several,
its pools; `pipelines/settings/schema/deployments.py`). What is None is derived from the rest in
`pipelines/settings/derived.py`. Knows no Ray and loads no model; what it only names is read by `pipelines/settings/environment.py`. Where
it stands in the YAML file: `pipelines/settings/config_file.py`.
"""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from pipelines.settings.schema.auth import AuthConfig
from pipelines.settings.schema.deployments import ActorOptions, DeploymentConfig, PartOverrides
from pipelines.settings.schema.http import ANY_ORIGIN, HttpConfig
from pipelines.settings.schema.orchestration import ChatSlo, EmbedSlo, PaintSlo, RoutingConfig, ScalingConfig
from pipelines.settings.schema.remembering import CacheConfig
from pipelines.settings.schema.strict import Strict
from pipelines.settings.schema.telemetry import TelemetryConfig
from pipelines.tools.formats import BY_NAME
from stages.contract.limits import QueueLimits
from stages.diffusion.messages import MAX_GUIDANCE_SCALE

INGRESS = "ingress"
SURGE_PERCENT = 25  # rounded up: there is one replica more before the first old one goes
AS_IN_MODELS = PartOverrides()


class SourceConfig(Strict):
    """Where weights come from: exactly one of `demo`, `folder` and `hub`."""

    demo: Literal["clip", "projector", "painter", "smollm2"] | None = None
    folder: str | None = Field(None, description="a checkpoint folder on every machine that runs the stage")
    hub: str | None = Field(None, description="a hub id, org/name", pattern=r"^[\w.\-]+/[\w.\-]+$")
    revision: str | None = Field(None, description="the hub's branch, tag or commit")

    @model_validator(mode="after")
    def exactly_one(self) -> "SourceConfig":
        given = [name for name in ("demo", "folder", "hub") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"give exactly one of demo, folder, hub (given: {', '.join(given) or 'none'})")
        if self.revision is not None and self.hub is None:
            raise ValueError("revision goes with hub only")
        return self


class ContentsConfig(Strict):
    """What a part is loaded from, as digests: of what a process reads that only prepares its input, and with the weights."""

    settings: str
    whole: str


class BatchConfig(Strict):
    """What may share one pass over the device. `max_items` of an LLM are its slots; left out: those, and 16 elsewhere. `max_cost`
    is in the stage's work unit (see the stage's docstring)."""

    max_items: int | None = Field(None, ge=1, le=4096)
    max_cost: float = Field(float("inf"), gt=0)


class QueueConfig(Strict):
    """How much may wait in one replica before requests are refused with 429."""

    max_items: int = Field(256, ge=1, le=1_000_000)
    max_cost: float = Field(float("inf"), gt=0)

    def limits(self) -> QueueLimits:
        return QueueLimits(self.max_items, self.max_cost)


class PartConfig(Strict):
    """One part of a model: one stage. `contents`: what the source must hold, wherever it is loaded; filled in where the configuration is
    deployed from, if that machine has the source (`pipelines/settings/pinning.py`)."""

    source: SourceConfig
    contents: ContentsConfig | None = None
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field("auto", description="auto: see stages/device/dtypes.py")
    device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    compile: bool = False
    batch: BatchConfig = BatchConfig()
    queue: QueueConfig = QueueConfig()
    max_step_s: float = Field(
        120,
        gt=0,
        description="a batch, a step or preparing an item that takes longer means a broken replica (the first: 5 times)",
    )
    max_load_s: float = Field(
        3600,
        gt=0,
        description="fetching, loading and warming up that take longer end the replica's process, and Serve starts it again",
    )


class VisionEncoderConfig(PartConfig):
    loader: Literal["open_clip", "transformers"]
    projector: SourceConfig | None = Field(None, description="open_clip towers only: what maps its tokens into the LLM")

    @model_validator(mode="after")
    def projector_goes_with_open_clip(self) -> "VisionEncoderConfig":
        if (self.loader == "open_clip") != (self.projector is not None):
            raise ValueError("projector is needed with loader open_clip, and not allowed with loader transformers")
        return self


class LlmConfig(PartConfig):
    loader: Literal["transformers"] = "transformers"
    num_slots: int = Field(8, ge=1, le=1024, description="requests that decode together")
    max_context_tokens: int = Field(2048, ge=16, le=10_000_000, description="prompt and answer together")
    prefill_chunk_tokens: int | None = Field(None, ge=1, description="prompt tokens computed in one step; None: 256")
    page_tokens: int = Field(64, ge=8, le=4096, description="tokens whose keys and values are remembered together")
    page_dtype: Literal["auto", "int8"] = Field(
        "auto", description="of remembered keys and values; auto: as they were computed"
    )


class DiffusersPartConfig(PartConfig):
    loader: Literal["diffusers"] = "diffusers"


class EmbedderConfig(PartConfig):
    loader: Literal["open_clip"] = "open_clip"


PARTS: Mapping[str, type[PartConfig]] = {
    "llm": LlmConfig,
    "vision_encoder": VisionEncoderConfig,
    "embedder": EmbedderConfig,
    **dict.fromkeys(("text_encoder", "denoiser", "vae_decoder", "vae_encoder"), DiffusersPartConfig),
}
"""What may be said of each kind of part."""


class ImageTextModel(Strict):
    """Chat, with images where there is a vision encoder. `tools`: how the model writes calls: as its template does (auto), as a format of
    that name, or not at all (none). `thoughts`: whether what it thinks is told apart from what it answers."""

    pipeline: Literal["image_text"]
    llm: LlmConfig
    vision_encoder: VisionEncoderConfig | None = None
    slo: ChatSlo = ChatSlo()
    tools: str = "auto"
    thoughts: Literal["auto", "none"] = "auto"

    @field_validator("tools")
    @classmethod
    def tools_are_known(cls, tools: str) -> str:
        if tools not in (known := ("auto", "none", *BY_NAME)):
            raise ValueError(f"{tools!r} is no format of calls; write one of {', '.join(known)}")
        return tools

    def parts(self) -> dict[str, PartConfig]:
        return {"llm": self.llm} | ({"vision_encoder": self.vision_encoder} if self.vision_encoder else {})


class TextToImageModel(Strict):
    """Images from sentences, and from images where there is a vae encoder. `sizes`: the only sizes allowed ("WIDTHxHEIGHT");
    empty: any multiple that the checkpoint takes. Steps and guidance scale that are not given are the checkpoint's own.
    `keep_steps`: after which steps what is painted is remembered, so that it goes on from there where it was interrupted: 5 is after
    five steps, 0.5 half-way. `remember_images`: finished ones, for whoever asks for the same again, seed included."""

    pipeline: Literal["text_to_image"]
    text_encoder: DiffusersPartConfig
    denoiser: DiffusersPartConfig
    vae_decoder: DiffusersPartConfig
    vae_encoder: DiffusersPartConfig | None = None
    sizes: tuple[str, ...] = ()
    max_pixels: int | None = Field(None, ge=64, description="None: 1,048,576, or the largest of sizes")
    default_steps: int | None = Field(None, ge=1)
    max_steps: int = Field(150, ge=1)
    default_guidance_scale: float | None = Field(None, ge=0, le=MAX_GUIDANCE_SCALE)
    default_strength: float = Field(0.8, gt=0, le=1, description="of edits: how much of the given image is painted over")
    keep_steps: tuple[int | float, ...] = ()
    remember_images: bool = False
    slo: PaintSlo = PaintSlo()

    @field_validator("sizes")
    @classmethod
    def sizes_are_sizes(cls, sizes: tuple[str, ...]) -> tuple[str, ...]:
        for size in sizes:
            width, cross, height = size.partition("x")
            if not (cross and width.isdecimal() and height.isdecimal() and int(width) and int(height)):
                raise ValueError(f"{size!r} is not a size; write WIDTHxHEIGHT, such as 512x512")
        return sizes

    @field_validator("keep_steps")
    @classmethod
    def steps_or_parts(cls, keep_steps: tuple[int | float, ...]) -> tuple[int | float, ...]:
        for step in keep_steps:
            if not (step >= 1 if isinstance(step, int) else 0 < step < 1):
                raise ValueError(
                    f"{step} is neither a step (5) nor a part of a request's steps (0.5); what comes after the last is "
                    "remembered by remember_images"
                )
        return keep_steps

    @model_validator(mode="after")
    def default_within_bounds(self) -> "TextToImageModel":
        if self.default_steps is not None and self.default_steps > self.max_steps:
            raise ValueError(f"default_steps {self.default_steps} is over max_steps {self.max_steps}")
        return self

    def parts(self) -> dict[str, PartConfig]:
        always: dict[str, PartConfig] = {
            "text_encoder": self.text_encoder,
            "denoiser": self.denoiser,
            "vae_decoder": self.vae_decoder,
        }
        return always | ({"vae_encoder": self.vae_encoder} if self.vae_encoder else {})


class EmbedModel(Strict):
    """Text and images in one space."""

    pipeline: Literal["embed"]
    embedder: EmbedderConfig
    slo: EmbedSlo = EmbedSlo()

    def parts(self) -> dict[str, PartConfig]:
        return {"embedder": self.embedder}


ModelConfig = Annotated[ImageTextModel | TextToImageModel | EmbedModel, Field(discriminator="pipeline")]


class LimitsConfig(Strict):
    body_bytes: int = Field(32 * 2**20, ge=1024)
    body_bytes_in_flight: int | None = Field(
        None,
        ge=1024,
        description="bodies that one HTTP process holds at a time, each beyond its first 64 KiB; None: 16 of body_bytes",
    )
    image_bytes: int = Field(20 * 2**20, ge=64)
    image_pixels: int = Field(25_000_000, ge=1)
    pixels_in_flight: int | None = Field(
        None, ge=1, description="pixels of images that one process decodes at a time; None: twice image_pixels"
    )
    images_per_request: int = Field(8, ge=0)
    request_pixels: int | None = Field(
        None,
        ge=1,
        description="pixels of all images of one request; None: four times image_pixels, which eight photos of 12 megapixels have",
    )
    prompt_chars: int = Field(200_000, ge=1)
    max_tokens: int | None = Field(None, ge=1, description="of a chat's answer; None: what the context holds")
    default_max_tokens: int | None = Field(
        None, ge=1, description="of an answer that asks for no bound, as far as the context holds it; None: 512"
    )
    max_choices: int = Field(8, ge=1)
    completion_choices: int = Field(128, ge=1, description="of one request for completions: its prompts, times n")
    max_images: int = Field(10, ge=1)
    embedding_inputs: int = Field(256, ge=1)
    default_request_s: float = Field(120, gt=0)
    max_request_s: float = Field(600, gt=0)

    @model_validator(mode="after")
    def default_within_bounds(self) -> "LimitsConfig":
        if self.default_request_s > self.max_request_s:
            raise ValueError(f"default_request_s {self.default_request_s} is over max_request_s {self.max_request_s}")
        return self


class FetchConfig(Strict):
    """Whether http(s) image addresses are fetched."""

    enabled: bool = False
    timeout_s: float = Field(10, gt=0)
    allowed_hosts: tuple[str, ...] = ()


class IngressConfig(HttpConfig):
    """The HTTP surface. `stages` that live in its own process cost no hop, and scale, compute and fall with it."""

    stages: tuple[str, ...] = Field((), description="MODEL.PART names")
    torch_threads: Annotated[int, Field(ge=1, le=1024)] | Literal["auto"] = Field(1, description="auto: a thread a core")
    num_replicas: int = Field(1, ge=1)
    ray_actor_options: ActorOptions = ActorOptions()
    max_ongoing_requests: int = Field(1000, ge=1)
    max_queued_requests: int | None = Field(
        None,
        ge=1,
        description="requests that may wait for a replica before 429, at each of Serve's proxies; None: max_ongoing_requests",
    )


class AppConfig(Strict):
    """Everything."""

    models: dict[Annotated[str, Field(pattern=r"^[\w\-/:]+$")], ModelConfig] = Field(min_length=1)
    deployments: dict[Annotated[str, Field(pattern=r"^[\w\-]+$")], DeploymentConfig] = {}
    cache: CacheConfig = CacheConfig()
    limits: LimitsConfig = LimitsConfig()
    auth: AuthConfig = AuthConfig()
    fetch: FetchConfig = FetchConfig()
    ingress: IngressConfig = IngressConfig()
    routing: RoutingConfig = RoutingConfig()
    scaling: ScalingConfig = ScalingConfig()
    telemetry: TelemetryConfig = TelemetryConfig()
    traffic: dict[str, dict[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]]] = Field(
        {},
        description="MODEL -> models and their weights: of the requests that ask for it, each answers such a share",
    )
    profiles: str = Field(
        "profiles",
        description="a folder of measured speeds (`triptych profile`) on every machine; what has none there is learned",
    )
    fork_server: bool = Field(
        True, description="replicas on a node start as forks of one process that has imported their libraries"
    )

    def stage_names(self) -> tuple[str, ...]:
        """MODEL.PART of every stage, in the order of the file."""
        return tuple(self.parts())

    def parts(self) -> dict[str, PartConfig]:
        """MODEL.PART -> its settings, in the order of the file."""
        return {f"{name}.{part}": given for name, model in self.models.items() for part, given in model.parts().items()}

    def hosted(self, home: DeploymentConfig | IngressConfig) -> dict[str, PartConfig]:
        """MODEL.PART -> its settings as they are there."""
        parts = self.parts()
        given = home.overrides if isinstance(home, DeploymentConfig) else {}
        return {stage: overridden(parts[stage], given.get(stage, AS_IN_MODELS)) for stage in home.stages}

    @model_validator(mode="after")
    def every_stage_has_a_place(self) -> "AppConfig":
        known = self.stage_names()
        homes = {f"deployments.{name}": deployment.stages for name, deployment in self.deployments.items()}
        for home, stages in (homes | {"ingress": self.ingress.stages}).items():
            for stage in stages:
                if stage not in known:
                    raise ValueError(f"{home}.stages: {stage!r} is not one of {', '.join(known)}")
                if stages.count(stage) > 1:
                    raise ValueError(f"{home}.stages: {stage!r} is there twice")
                if home != "ingress" and stage in self.ingress.stages:
                    raise ValueError(
                        f"ingress.stages: {stage!r} is in {home}, too; a stage that lives with the HTTP surface has no other pools"
                    )
        self._refuse_one_name_for_two()
        clashes = {INGRESS, "metrics", "redis", "redis-kv"} & set(self.deployments)
        if clashes:
            raise ValueError(f"deployments: {', '.join(clashes)} is taken by Triptych itself; choose another name")
        return self

    @model_validator(mode="after")
    def pages_of_strangers_need_keys(self) -> "AppConfig":
        if ANY_ORIGIN in self.ingress.cors_origins and not self.auth.keys:
            raise ValueError(
                "ingress.cors_origins: \"*\" without auth.keys would let any page that this machine's user opens ask in that user's "
                "name; name the origins, or give keys"
            )
        return self

    @model_validator(mode="after")
    def overrides_are_possible(self) -> "AppConfig":
        parts = self.parts()
        for name, deployment in self.deployments.items():
            for stage, given in deployment.overrides.items():
                try:
                    overridden(parts[stage], given)
                except ValidationError as error:
                    raise ValueError(f"deployments.{name}.overrides.{stage}.{_first_fault(error)}") from None
        return self

    @model_validator(mode="after")
    def tenants_models_are_served(self) -> "AppConfig":
        for tenant, models in self.auth.models.items():
            unknown = sorted(set(models) - set(self.models))
            if unknown:
                raise ValueError(f"auth.models.{tenant}: {', '.join(unknown)} is not one of {', '.join(self.models)}")
        return self

    @model_validator(mode="after")
    def traffic_goes_to_models_of_its_kind(self) -> "AppConfig":
        for asked, shares in self.traffic.items():
            for model in (asked, *shares):
                if model not in self.models:
                    raise ValueError(f"traffic.{asked}: {model} is not one of {', '.join(self.models)}")
                if self.models[model].pipeline != self.models[asked].pipeline:
                    raise ValueError(
                        f"traffic.{asked}: {model} is of pipeline {self.models[model].pipeline}, {asked} of {self.models[asked].pipeline}"
                    )
                if model != asked and model in self.traffic:
                    raise ValueError(
                        f"traffic.{asked}: {model} shares its own requests with others; say all weights in one place"
                    )
            if not sum(shares.values()):
                raise ValueError(f"traffic.{asked}: no model has a weight over 0")
        return self

    def _refuse_one_name_for_two(self) -> None:
        named = dict.fromkeys(self.deployments, "deployments has it")
        for stage in self._unplaced():
            name = _own_deployment(stage)
            if name in named:
                raise ValueError(
                    f"deployments: {stage} is in none and would get one of its own, {name!r}, but {named[name]}; "
                    f"name a deployment with stages: [{stage}]"
                )
            named[name] = f"so would {stage}"

    def placement(self) -> dict[str, DeploymentConfig]:
        """Every deployment beside the ingress; a stage that neither names gets one of its own."""
        return dict(self.deployments) | {
            _own_deployment(stage): DeploymentConfig(stages=(stage,)) for stage in self._unplaced()
        }

    def _unplaced(self) -> tuple[str, ...]:
        placed = set(self.ingress.stages).union(*(deployment.stages for deployment in self.deployments.values()))
        return tuple(stage for stage in self.stage_names() if stage not in placed)


def _own_deployment(stage: str) -> str:
    return stage.replace(".", "-").replace("/", "-").replace(":", "-")


def overridden(part: PartConfig, given: PartOverrides) -> PartConfig:
    """A part's settings with what differs in one pool. Raises `ValidationError` where such a part can't have it."""
    changes = given.settings()
    if not changes:
        return part
    settings = part.model_dump()
    for name, value in changes.items():
        settings[name] = settings[name] | value if isinstance(value, dict) else value
    return type(part).model_validate(settings)


def _first_fault(error: ValidationError) -> str:
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"

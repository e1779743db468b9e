"""Where stages live: deployments, what one takes of a node, how many replicas of it there are, and what of a stage's settings differs in
it. A stage may live in several deployments, its pools, each on devices of its own.

Decides what may differ between the pools of a stage: what it runs on, in which dtype, how much at a time. What requests are made for (its
weights, its context) and what keeps results comparable is said once, in `models`. Knows no model.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from pipelines.settings.schema.strict import Strict

AGREED: Mapping[str, str] = {
    **dict.fromkeys(("source", "contents", "loader", "projector"), "requests are made for one set of weights"),
    "max_context_tokens": "requests are checked against one context",
    "page_tokens": "pages are found by names that are the same in every pool",
    "page_dtype": "pages are found by names that are the same in every pool",
}
"""What all pools of a stage have in common, and why."""


class AutoscalingConfig(Strict):
    """Ray Serve's own settings, under its own names, and quicker defaults than Serve's; and `weight`: its part where the budget
    (`scaling.budget`) doesn't suffice for all."""

    min_replicas: int = Field(1, ge=0)
    max_replicas: int = Field(1, ge=1)
    initial_replicas: int | None = Field(None, ge=0)
    target_ongoing_requests: float | None = Field(None, gt=0, description="None: one full batch")
    upscale_delay_s: float = Field(5, ge=0)
    downscale_delay_s: float = Field(60, ge=0)
    downscale_to_zero_delay_s: float | None = Field(None, ge=0)
    metrics_interval_s: float = Field(1, gt=0)
    look_back_period_s: float = Field(5, gt=0)
    upscaling_factor: float | None = Field(None, gt=0)
    downscaling_factor: float | None = Field(None, gt=0)
    weight: float = Field(1, gt=0)

    @model_validator(mode="after")
    def bounds_are_ordered(self) -> "AutoscalingConfig":
        if self.min_replicas > self.max_replicas:
            raise ValueError(f"min_replicas {self.min_replicas} is over max_replicas {self.max_replicas}")
        if self.initial_replicas is not None and not self.min_replicas <= self.initial_replicas <= self.max_replicas:
            raise ValueError(f"initial_replicas {self.initial_replicas} is outside {self.min_replicas}..{self.max_replicas}")
        return self


class ActorOptions(Strict):
    """What one replica takes of a node; Ray's own names."""

    num_cpus: float = Field(0.1, ge=0)
    num_gpus: float | None = Field(None, ge=0, description="None: as many as the stages' device settings name")
    memory: float | None = Field(None, gt=0)
    resources: dict[str, float] = {}
    accelerator_type: str | None = None
    label_selector: dict[str, str] = {}

    @field_validator("num_gpus")
    @classmethod
    def a_fraction_or_whole(cls, value: float | None) -> float | None:
        if value is not None and value > 1 and value != int(value):
            raise ValueError(f"{value} GPUs: a fraction must be under 1, and more than 1 must be whole")
        return value


class BoundsOverrides(Strict):
    """Of a batch or a queue."""

    max_items: int | None = None
    max_cost: float | None = None


class PartOverrides(Strict):
    """What of a stage's settings differs in one pool, under the names and within the bounds that they have in `models`; None: nothing."""

    dtype: str | None = None
    device: str | None = None
    compile: bool | None = None
    batch: BoundsOverrides = BoundsOverrides()
    queue: BoundsOverrides = BoundsOverrides()
    num_slots: int | None = None
    prefill_chunk_tokens: int | None = None
    max_step_s: float | None = None
    max_load_s: float | None = None

    @model_validator(mode="before")
    @classmethod
    def agreed_is_said_once(cls, given: Any) -> Any:
        agreed = [name for name in given if name in AGREED] if isinstance(given, Mapping) else []
        if agreed:
            raise ValueError(
                f"{', '.join(agreed)} must be the same in every pool of a stage ({AGREED[agreed[0]]}); set it under models, or make it "
                "another model"
            )
        return given

    def settings(self) -> dict[str, Any]:
        """Those that are given."""
        given = self.model_dump(exclude_none=True)
        return {name: value for name, value in given.items() if value != {}}


class DeploymentConfig(Strict):
    """Where some stages live and how many replicas of them there are: one pool of each. Give `num_replicas` or `autoscaling_config`.
    `overrides`: by MODEL.PART, what is otherwise here than `models` says."""

    stages: tuple[str, ...] = Field(min_length=1, description="MODEL.PART names")
    overrides: dict[str, PartOverrides] = {}
    num_replicas: int | None = Field(None, ge=1)
    autoscaling_config: AutoscalingConfig | None = None
    ray_actor_options: ActorOptions = ActorOptions()
    torch_threads: Annotated[int, Field(ge=1, le=1024)] | Literal["auto"] = Field(1, description="auto: a thread a core")
    max_ongoing_requests: int | None = Field(
        None,
        ge=1,
        description="requests one replica holds, the rest wait for the next replica; None: a full batch and all that may wait",
    )
    max_queued_requests: int = Field(256, ge=1, description="requests that may wait for a replica before 429")
    health_check_period_s: float = Field(2, gt=0)
    health_check_timeout_s: float = Field(
        10, gt=0, description="a replica that lets three of its checks wait so long is replaced: one that is stopped, say"
    )
    graceful_shutdown_timeout_s: float | None = Field(
        None, gt=0, description="how long a leaving replica may finish its requests; None: what the longest request may take"
    )
    max_surge_percent: int = Field(
        25,
        ge=0,
        le=100,
        description="replicas beyond their number while a change replaces them, rounded up; 0: old ones go first, for want of room",
    )

    @model_validator(mode="after")
    def overrides_are_of_its_stages(self) -> "DeploymentConfig":
        others = [stage for stage in self.overrides if stage not in self.stages]
        if others:
            raise ValueError(f"overrides: {', '.join(others)} is not one of its stages {', '.join(self.stages)}")
        return self

    @model_validator(mode="after")
    def one_way_to_scale(self) -> "DeploymentConfig":
        if self.num_replicas is not None and self.autoscaling_config is not None:
            raise ValueError("give num_replicas or autoscaling_config, not both")
        return self

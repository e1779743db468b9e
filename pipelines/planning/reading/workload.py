"""`mix.yaml`: which requests come, and how long they may take.

Decides what may be said of a class of requests, strictly; what that means for each stage is in `described.py`. A class says how many of it
come beside the others (`rate`, in requests a second), and of one request what it holds, or, stage by stage, the work itself.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError

from pipelines.planning.reading.inventory import mapping_of
from pipelines.settings.config_file import refused, told
from pipelines.settings.schema.strict import Strict
from stages.contract.errors import ConfigurationError

SLO_SETTINGS = ("first_token_s", "token_s", "total_s")


class WorkConfig(Strict):
    """What a request asks of one stage: `items` that take `amount` each, in the stage's own unit, over `steps` of the device; until its
    first output `first_amount` over `first_steps` (of an LLM: its prompt)."""

    amount: float = Field(gt=0)
    steps: float = Field(1, gt=0)
    items: float = Field(1, ge=0)
    first_amount: float | None = Field(None, gt=0)
    first_steps: float = Field(1, gt=0)
    result_bytes: float = Field(0, ge=0, description="of one item's result, on its way to another stage")


class SloConfig(Strict):
    first_token_s: float | None = Field(None, gt=0)
    token_s: float | None = Field(None, gt=0)
    total_s: float | None = Field(None, gt=0)


class ClassConfig(Strict):
    """Requests that are alike, to one model. Tokens, images and steps are those of an average request. `remembered`: by part, which part of
    its items (of an LLM: of its prompt) is remembered. `work`: by part, in place of what the rest would mean."""

    model: str
    rate: float = Field(gt=0)
    prompt_tokens: float = Field(64, ge=0, description="of text; images have theirs beside")
    answer_tokens: float = Field(128, ge=1)
    images: float = Field(0, ge=0, description="given ones a chat or an edit, or painted ones")
    image_patches: float = Field(576, ge=1, description="of one given image, in its encoder")
    image_tokens: float = Field(576, ge=1, description="of one given image, in the prompt")
    size: str = Field("1024x1024", pattern=r"^\d+x\d+$")
    steps: int | None = Field(None, ge=1, description="None: the model's default")
    guidance: bool = True
    latent_factor: int = Field(8, ge=1, description="pixels along a side of a latent position")
    feature_bytes: float = Field(
        8192, ge=0, description="of one token's or patch's features, from an encoder to the next stage"
    )
    edits: bool = Field(False, description="each painting begins with a given image")
    remembered: dict[str, Annotated[float, Field(ge=0, le=1)]] = {}
    work: dict[str, WorkConfig] = {}
    slo: SloConfig = SloConfig()


class WorkloadConfig(Strict):
    classes: dict[str, ClassConfig] = Field(min_length=1)


def read_workload(path: Path, slo: Sequence[str] = ()) -> Mapping[str, ClassConfig]:
    """By name. `slo`: CLASS.SETTING=SECONDS, over what the file says. Raises `ConfigurationError`."""
    return workload(mapping_of(path), str(path), slo)


def workload(given: Mapping[str, Any], where: str, slo: Sequence[str] = ()) -> Mapping[str, ClassConfig]:
    try:
        classes = WorkloadConfig.model_validate(given).classes
    except ValidationError as error:
        raise refused([f"{where}: {line}" for line in told(error)]) from None
    for each in slo:
        name, setting, seconds = _bound(each, classes)
        changed = classes[name].slo.model_copy(update={setting: seconds})
        classes = classes | {name: classes[name].model_copy(update={"slo": changed})}
    return dict(sorted(classes.items()))


def _bound(given: str, classes: Mapping[str, ClassConfig]) -> tuple[str, str, float]:
    where, _, seconds = given.partition("=")
    name, _, setting = where.rpartition(".")
    if name not in classes or setting not in SLO_SETTINGS or not _is_positive(seconds):
        raise ConfigurationError(
            f"--slo {given}: write CLASS.SETTING=SECONDS, with one of {', '.join(classes)} and one of {', '.join(SLO_SETTINGS)}"
        )
    return name, setting, float(seconds)


def _is_positive(text: str) -> bool:
    try:
        return 0 < float(text) < float("inf")
    except ValueError:
        return False

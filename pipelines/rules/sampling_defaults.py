"""How a model is asked where a request says nothing: its checkpoint's `generation_config.json`, read as vLLM reads it.

Decides what becomes of a field that the request, the file, or both leave out. Reads one small file; knows no HTTP and no tokens.
"""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipelines.jobs import AskedSampling, SamplingDefaults
from stages.checkpoints.checkpoint import Checkpoint
from stages.contract.errors import ConfigurationError
from stages.llm.messages import Sampling

FILE = "generation_config.json"


class _GenerationConfig(BaseModel):
    """The fields that vLLM takes. `do_sample` is none of them: without a temperature a model is asked at 1, as OpenAI's are."""

    model_config = ConfigDict(extra="ignore")

    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=100)] | None = None
    max_new_tokens: Annotated[int, Field(ge=1)] | None = None


def sampling_defaults(checkpoint: Checkpoint, default_max_tokens: int, max_tokens: int | None) -> SamplingDefaults:
    """OpenAI's defaults where the checkpoint has no such file, and for its bound the configuration's (`default_max_tokens`, and
    `max_tokens` over all). Raises `ConfigurationError` for one with values that can't be
    served."""
    path = checkpoint.folder / FILE
    try:
        found = _GenerationConfig.model_validate_json(path.read_bytes()) if path.exists() else _GenerationConfig()
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"])) or "the file"
        raise ConfigurationError(f"{checkpoint.source}: {FILE}: {field}: {first['msg']}") from error
    except OSError as error:
        raise ConfigurationError(f"{checkpoint.source}: {FILE} cannot be read: {error}") from error
    return SamplingDefaults(
        temperature=1.0 if found.temperature is None else found.temperature,
        top_p=1.0 if found.top_p is None else found.top_p,
        top_k=max(0, found.top_k or 0),
        min_p=found.min_p or 0.0,
        repetition_penalty=found.repetition_penalty or 1.0,
        max_tokens=min(found.max_new_tokens or default_max_tokens, max_tokens or found.max_new_tokens or default_max_tokens),
    )


def completed(asked: AskedSampling, defaults: SamplingDefaults, room: int) -> Sampling:
    """What is sent to the stage. `room`: how many tokens fit."""
    return Sampling(
        max_tokens=asked.max_tokens or min(room, defaults.max_tokens),
        temperature=defaults.temperature if asked.temperature is None else asked.temperature,
        top_p=defaults.top_p if asked.top_p is None else asked.top_p,
        seed=asked.seed,
        stop=asked.stop,
        logprobs=asked.logprobs,
        frequency_penalty=asked.frequency_penalty,
        presence_penalty=asked.presence_penalty,
        logit_bias=asked.logit_bias,
        top_k=defaults.top_k,
        min_p=defaults.min_p,
        repetition_penalty=defaults.repetition_penalty,
    )

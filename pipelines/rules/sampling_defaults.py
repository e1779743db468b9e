"""How a model is asked where a request says nothing: its checkpoint's `generation_config.json`, read as vLLM reads it.

Decides what becomes of a field that the request, the file, or both leave out. Reads one small file; knows no HTTP and no tokens.
"""

from typing import Annotated

from annotated_types import Ge
from pydantic import BaseModel, ConfigDict, ValidationError

from stages.checkpoints.checkpoint import Checkpoint
from stages.contract.errors import ConfigurationError
from stages.llm.messages import MaxTokens, MinP, RepetitionPenalty, Sampling, Temperature, TopP

FILE = "generation_config.json"


class _GenerationConfig(BaseModel):
    """The fields that vLLM takes. `do_sample` is none of them: without a temperature a model is asked at 1, as OpenAI's are."""

    model_config = ConfigDict(extra="ignore")

    temperature: Temperature | None = None
    top_p: TopP | None = None
    top_k: Annotated[int, Ge(-1)] | None = None
    min_p: MinP | None = None
    repetition_penalty: RepetitionPenalty | None = None
    max_new_tokens: MaxTokens | None = None


def sampling_defaults(checkpoint: Checkpoint, default_max_tokens: int, max_tokens: int | None) -> Sampling:
    """OpenAI's defaults where the checkpoint has no such file, and for its bound the configuration's (`default_max_tokens`, and
    `max_tokens` over all). Raises `ConfigurationError` for one with values that can't be served."""
    path = checkpoint.folder / FILE
    try:
        found = _GenerationConfig.model_validate_json(path.read_bytes()) if path.exists() else _GenerationConfig()
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"])) or "the file"
        raise ConfigurationError(f"{checkpoint.source}: {FILE}: {field}: {first['msg']}") from error
    except OSError as error:
        raise ConfigurationError(f"{checkpoint.source}: {FILE} cannot be read: {error}") from error
    given = found.model_dump(exclude_none=True)
    bound = given.pop("max_new_tokens", default_max_tokens)
    return Sampling(max_tokens=min(bound, max_tokens or bound), **given | {"top_k": max(0, found.top_k or 0)})

"""What an LLM is sent and what it answers. Torch-free: pipelines build and read these. Decides nothing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

from annotated_types import Ge, Gt, Le

from stages.contract.message import MessageEnum, message
from stages.contract.recipe import Recipe
from stages.vision.messages import VisionFeatures


@message
@dataclass(frozen=True, slots=True)
class ImageSpan:
    """Where an image stands in a prompt: `length` placeholder tokens from `offset`."""

    offset: int
    length: int
    features: Recipe[VisionFeatures]


MaxTokens = Annotated[int, Ge(1)]
Temperature = Annotated[float, Ge(0), Le(2)]
TopP = Annotated[float, Gt(0), Le(1)]
TopK = Annotated[int, Ge(0), Le(2**31 - 1)]
MinP = Annotated[float, Ge(0), Le(1)]
RepetitionPenalty = Annotated[float, Gt(0), Le(100)]
Penalty = Annotated[float, Ge(-2), Le(2)]
NumLogprobs = Annotated[int, Ge(0), Le(20)]
Bias = Annotated[float, Ge(-100), Le(100)]


class ConstraintKind(MessageEnum):
    """What `Constraint.text` is: a JSON schema; nothing (any JSON object); a regular expression, of all of the text; a JSON array of the
    texts that may be said; a grammar in llguidance's dialect of Lark."""

    JSON_SCHEMA = "json_schema"
    JSON_OBJECT = "json_object"
    REGEX = "regex"
    CHOICE = "choice"
    GRAMMAR = "grammar"


@message
@dataclass(frozen=True, slots=True)
class Constraint:
    """What an answer must be, as a whole; `stages/llm/structure/` checks and enforces it. `after`: it begins behind the first of these
    tokens, and before that anything may be said; `may_end_before`: also nothing else. `whitespace`: a regular expression of what may
    stand, once, wherever JSON may have white space ("": nothing); None: as `stages/llm/structure/grammars.py` has it."""

    kind: ConstraintKind
    text: str = ""
    after: tuple[int, ...] = ()
    may_end_before: bool = True
    whitespace: str | None = None


@message
@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is chosen, within the bounds of each field (`stages/llm/sampling/bounds.py` checks them). `max_tokens` 0: as many
    as fit. temperature 0 is greedy. `logprobs` None: none; n: the n likeliest beside the chosen one; `prompt_logprobs`: the same of the
    prompt's own tokens, of which then none is spared. `top_k` 0, `min_p` 0 and `repetition_penalty` 1 do nothing. `constraint` None:
    anything may be said. `min_tokens`: before so many nothing ends the answer, unless `constraint` leaves it nothing else to say;
    `ignore_eos`: the model's own end tokens don't; `stop_token_ids` do too. `include_stop_str_in_output`: what ended it is shown. Special
    tokens have no text, but for `shown_tokens`, and all where `skip_special_tokens` is false."""

    max_tokens: Annotated[int, Ge(0)]
    temperature: Temperature = 1.0
    top_p: TopP = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    logprobs: NumLogprobs | None = None
    frequency_penalty: Penalty = 0.0
    presence_penalty: Penalty = 0.0
    logit_bias: Mapping[int, Bias] = field(default_factory=dict)
    top_k: TopK = 0
    min_p: MinP = 0.0
    repetition_penalty: RepetitionPenalty = 1.0
    constraint: Constraint | None = None
    prompt_logprobs: NumLogprobs | None = None
    min_tokens: Annotated[int, Ge(0)] = 0
    ignore_eos: bool = False
    stop_token_ids: tuple[int, ...] = ()
    include_stop_str_in_output: bool = False
    skip_special_tokens: bool = True
    shown_tokens: tuple[int, ...] = ()


@message
@dataclass(frozen=True, slots=True)
class TokenLogprob:
    token_id: int
    text: str
    data: bytes
    logprob: float
    top: tuple["TokenLogprob", ...] = ()


@message
@dataclass(frozen=True, slots=True)
class SoFar:
    """What was told of an answer by a stage that is gone, for another to go on from: as if it had chosen these tokens itself. `unshown`:
    log probabilities of the last of them, whose text is held back still; `num_scored`: of how many of the prompt's tokens it was told
    how likely they were."""

    token_ids: tuple[int, ...] = ()
    unshown: tuple[TokenLogprob, ...] = ()
    num_scored: int = 0


@message
@dataclass(frozen=True, slots=True)
class Generate:
    """For an LLM. `token_ids` holds placeholder tokens where `images` go. What is computed for one `salt` serves no other. `so_far`: how
    far the answer has come already; events tell what comes after it, and ends count all of it."""

    token_ids: tuple[int, ...]
    sampling: Sampling
    images: tuple[ImageSpan, ...] = ()
    salt: str = field(default="", repr=False)
    so_far: SoFar = SoFar()

    def needs(self) -> Sequence[Recipe[Any]]:
        return tuple(image.features for image in self.images)


@message
@dataclass(frozen=True, slots=True)
class PromptLogprobs:
    """From an LLM that was asked for them, while it reads a prompt: how likely the prompt's next tokens were, each behind those before it.
    The first such event begins with the second token: nothing is before the first."""

    logprobs: tuple[TokenLogprob, ...]


@message
@dataclass(frozen=True, slots=True)
class TokenDelta:
    """From an LLM: text that can be shown now ("" while a character is incomplete or a stop string may be beginning), and the log
    probabilities of the tokens whose text that is. `token_ids`, as many as `num_tokens`, were chosen since the last such event, and
    `chosen` are theirs, whether their text can be shown or not: by these another stage goes on from here (`SoFar`)."""

    text: str
    num_tokens: int
    logprobs: tuple[TokenLogprob, ...] = ()
    token_ids: tuple[int, ...] = ()
    chosen: tuple[TokenLogprob, ...] = ()


@message
@dataclass(frozen=True, slots=True)
class GenerationEnd:
    """From an LLM, last. `reason` is "stop" or "length". Counts are exact; `cached_tokens` of the prompt were not computed. `stop_token`:
    what ended the answer, where that was a token and log probabilities were asked for; it is not shown."""

    reason: str
    completion_tokens: int
    cached_tokens: int = 0
    stop_token: TokenLogprob | None = None

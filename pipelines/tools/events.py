"""What is said of an answer that may think and call tools, besides its text and its end, which are the LLM's own events."""

from dataclasses import dataclass

from stages.llm.messages import GenerationEnd, PromptLogprobs, TokenDelta


@dataclass(frozen=True, slots=True)
class ReasoningDelta:
    """More of what the model thinks before it answers; `num_tokens` were generated for it."""

    text: str
    num_tokens: int = 0


@dataclass(frozen=True, slots=True)
class ToolCallBegun:
    """`index` counts the calls of one choice from 0. Its arguments follow."""

    index: int
    id: str
    name: str


@dataclass(frozen=True, slots=True)
class ToolArgumentsDelta:
    """More of a call's arguments, which all together are JSON text: an object, unless the model wrote none and nothing held it to."""

    index: int
    text: str


AnswerEvent = PromptLogprobs | TokenDelta | ReasoningDelta | ToolCallBegun | ToolArgumentsDelta | GenerationEnd
"""`PromptLogprobs` only where they were asked for. The last is a `GenerationEnd`, whose reason is "tool_calls" where the model ended its
answer with a call."""

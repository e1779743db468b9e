"""From a chat's body to its `ChatJob`: messages with their images, tools, how tokens are chosen and how the prompt is written.

Decides what fields don't go together, and which schemas of tools answers can be held to. Needs no HTTP request, so that whatever asks in
a chat's form is read here. Knows no stages.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from pipelines.context import RequestContext
from pipelines.ingress.images.image_url import ImageSource, WantedImage
from pipelines.ingress.request.limits import check_count, check_length, check_value
from pipelines.ingress.request.settings import IngressSettings
from pipelines.ingress.schemas.chat import ChatBody
from pipelines.ingress.schemas.chats.messages import (
    MAX_PARTS_IN_ALL,
    AssistantMessage,
    CalledFunction,
    ChatImageAddress,
    ChatMessage,
    FunctionMessage,
    ImageContent,
    RefusalContent,
    SystemMessage,
    TextContent,
    ToolMessage,
    UserMessage,
)
from pipelines.jobs import ChatJob, ImagePart, Message, ModelCard, PastCall, Service, TextPart
from pipelines.threads import Threads
from pipelines.tools.asked import Function, Tools
from pipelines.tools.grammar import arguments_schema
from stages.contract.errors import InvalidRequest, UnknownModel
from stages.llm.messages import Sampling
from stages.llm.structure.checking import check_schema

PART_BYTES = 64  # of a body that is as much work as a part of a message
TOOL_BYTES = 4096  # of a body that are as much work as a tool's
CHECK_BYTES = 16  # of a body that are as much work as a character of a schema
MAX_TOOL_CHARS = 48 * 1024
"""Of all tools, for answers to be held to their schemas: a grammar of more is refused as too large."""


@dataclass(frozen=True, slots=True)
class ChatQuestions:
    service: Service
    settings: IngressSettings
    images: ImageSource
    threads: Threads

    async def job(self, body: ChatBody, context: RequestContext) -> ChatJob:
        """Raises `InvalidRequest`."""
        n = body.n or 1
        _check(body, self.settings)
        check_value(n, self.settings.limits, "max_choices", param="n")
        template = body.template_options()
        tools = await self._tools(body, context)
        messages = await self._messages(body.messages, body)
        if template.continues and messages[-1].role != "assistant":
            raise InvalidRequest(
                "continue_final_message needs a last message of role assistant to go on with", param="continue_final_message"
            )
        for field, text in body.without_effect().items():
            context.note(field, text)
        defaults = _defaults(self.service.models(), body.model)
        unbounded = body.max_tokens is None and body.max_completion_tokens is None
        return ChatJob(messages, body.sampling(defaults), n, may_shorten=unbounded, tools=tools, template=template)

    async def _tools(self, body: ChatBody, context: RequestContext) -> Tools | None:
        """With what is known of which schemas can be enforced: those that must be, are, or the request is refused."""
        tools = body.asked_tools()
        if tools is None:
            return None
        size = await self.threads.parsing.run(TOOL_BYTES * len(tools.functions), _size, tools.functions)
        check_length(size, self.settings.limits, param="tools")
        must_hold = tools.must_call or body.structure() is not None
        if size > MAX_TOOL_CHARS and must_hold:
            raise InvalidRequest(
                f"tools have {size} characters; at most {MAX_TOOL_CHARS} for answers that are held to their schemas",
                param="tools",
            )
        if size > MAX_TOOL_CHARS:
            context.note("tools", f"calls are not held to these schemas: they have more than {MAX_TOOL_CHARS} characters")
            return replace(tools, functions=tuple(replace(one, is_enforceable=False) for one in tools.functions))
        functions, told = await self.threads.parsing.run_apart(CHECK_BYTES * size, _enforceable, tools.functions, must_hold)
        for function, why in told:
            context.note(function.param, f"calls are not held to this schema: {why}")
        return replace(tools, functions=functions)

    async def _messages(self, messages: Sequence[ChatMessage], body: ChatBody) -> tuple[Message, ...]:
        num_parts = _num_parts(messages)
        if num_parts > MAX_PARTS_IN_ALL:
            raise InvalidRequest(f"messages hold {num_parts} parts; at most {MAX_PARTS_IN_ALL} in all", param="messages")
        size = num_parts * PART_BYTES
        num_chars, addresses = await self.threads.parsing.run(size, _looked_through, messages)
        check_length(num_chars, self.settings.limits, param="messages")
        self._check_images(addresses)
        images = await self.images.load([_wanted(where, param) for param, where in addresses])
        return await self.threads.parsing.run(size, _with_images, messages, images)

    def _check_images(self, addresses: Sequence[tuple[str, ChatImageAddress]]) -> None:
        limits = self.settings.limits
        at_fault = addresses[limits.images_per_request][0] if len(addresses) > limits.images_per_request else ""
        check_count(len(addresses), limits, "images_per_request", param=at_fault, holds="images", where="messages")


def _defaults(cards: Sequence[ModelCard], model: str) -> Sampling:
    """How a model is asked where a request says nothing. Raises `UnknownModel` for one that doesn't chat."""
    for card in cards:
        if card.id == model and card.sampling is not None:
            return card.sampling
    raise UnknownModel(f"model {model!r} answers no chats", param="model")


def _size(functions: Sequence[Function]) -> int:
    """Characters that the template writes, about."""
    return sum(len(json.dumps(function.as_json(), ensure_ascii=False)) for function in functions)


def _enforceable(
    functions: Sequence[Function], must_hold: bool
) -> tuple[tuple[Function, ...], Sequence[tuple[Function, InvalidRequest]]]:
    """The functions, and why calls of some can't be held to their schemas. Raises `InvalidRequest` for those that must be, and for what
    is no schema of an object."""
    checked: list[Function] = []
    told: list[tuple[Function, InvalidRequest]] = []
    for function in functions:
        if function.parameters.get("type", "object") != "object":
            raise InvalidRequest(f'{function.param}.type must be "object": a call\'s arguments are one', param=function.param)
        try:
            check_schema(arguments_schema(function), function.param)
            checked.append(function)
        except InvalidRequest as error:
            if must_hold or function.strict:
                raise
            told.append((function, error))
            checked.append(replace(function, is_enforceable=False))
    return tuple(checked), told


def _num_parts(messages: Sequence[ChatMessage]) -> int:
    return sum(len(message.content) if isinstance(message.content, list) else 1 for message in messages)


def _looked_through(messages: Sequence[ChatMessage]) -> tuple[int, Sequence[tuple[str, ChatImageAddress]]]:
    """How many characters of text there are, and where the images are, each with its field."""
    addresses = [
        (f"messages[{row}].content[{column}].image_url.url", part.image_url)
        for row, message in enumerate(messages)
        if isinstance(message, UserMessage) and isinstance(message.content, list)
        for column, part in enumerate(message.content)
        if isinstance(part, ImageContent)
    ]
    return sum(map(_text_chars, messages)), addresses


def _wanted(where: ChatImageAddress, param: str) -> WantedImage:
    return WantedImage(where.url, param, low_detail=where.detail == "low")


def _with_images(messages: Sequence[ChatMessage], images: Sequence[ImagePart]) -> tuple[Message, ...]:
    """`images`: in the order of the messages."""
    left = iter(images)
    return tuple(_message(row, message, left) for row, message in enumerate(messages))


def _message(row: int, message: ChatMessage, images: Iterator[ImagePart]) -> Message:
    match message:
        case SystemMessage():
            return Message("system", _parts(message.content, images), name=message.name)
        case UserMessage():
            return Message("user", _parts(message.content, images), name=message.name)
        case ToolMessage():
            parts = _parts(message.content, images)
            return Message("tool", parts, name=message.name, call_id=message.tool_call_id)
        case FunctionMessage():
            return Message("tool", _parts(message.content, images), name=message.name, call_id=_old_id(message.name))
        case AssistantMessage():
            return _answer(row, message, images)


def _answer(row: int, message: AssistantMessage, images: Iterator[ImagePart]) -> Message:
    calls = [
        PastCall(call.id or f"call_{row}_{place}", call.function.name, _arguments(call.function))
        for place, call in enumerate(message.tool_calls or ())
    ]
    if (old := message.function_call) is not None:
        calls.append(PastCall(_old_id(old.name), old.name, _arguments(old)))
    content = message.refusal if message.content is None else message.content
    if content is None and not calls:
        where = f"messages[{row}].content"
        raise InvalidRequest(f"{where} is required, since the message calls nothing", param=where)
    reasoning = message.reasoning if message.reasoning_content is None else message.reasoning_content
    return Message("assistant", _parts(content, images), name=message.name, reasoning=reasoning, calls=tuple(calls))


def _arguments(called: CalledFunction) -> str:
    return called.arguments if isinstance(called.arguments, str) else json.dumps(called.arguments, ensure_ascii=False)


def _old_id(name: str) -> str:
    """Functions of before there were tools had no ids: results were told by their names."""
    return f"call_{name}"


def _parts(
    content: str | Sequence[TextContent | ImageContent | RefusalContent] | None, images: Iterator[ImagePart]
) -> tuple[TextPart | ImagePart, ...]:
    if content is None:
        return ()
    if isinstance(content, str):
        return (TextPart(content),)
    return tuple(_part(part, images) for part in content)


def _part(part: TextContent | ImageContent | RefusalContent, images: Iterator[ImagePart]) -> TextPart | ImagePart:
    match part:
        case TextContent():
            return TextPart(part.text)
        case RefusalContent():
            return TextPart(part.refusal)
        case ImageContent():
            return next(images)


def _text_chars(message: ChatMessage) -> int:
    own = len(message.content) if isinstance(message.content, str) else 0
    if isinstance(message.content, list):
        own = sum(0 if isinstance(part, ImageContent) else len(_said(part)) for part in message.content)
    if isinstance(message, AssistantMessage):
        own += len(message.reasoning_content or message.reasoning or "")
        own += sum(len(_arguments(call.function)) for call in message.tool_calls or ())
    return own


def _said(part: TextContent | RefusalContent) -> str:
    return part.text if isinstance(part, TextContent) else part.refusal


def _check(body: ChatBody, settings: IngressSettings) -> None:
    """Raises `InvalidRequest` for fields that don't go together, and for a bound over the configured one."""
    if body.stream_options is not None and not body.stream:
        raise InvalidRequest("stream_options is allowed only with stream: true", param="stream_options")
    if body.top_logprobs is not None and not body.logprobs:
        raise InvalidRequest("top_logprobs is allowed only with logprobs: true", param="top_logprobs")
    bounds = {"max_tokens": body.max_tokens, "max_completion_tokens": body.max_completion_tokens}
    if len({bound for bound in bounds.values() if bound is not None}) > 1:
        raise InvalidRequest(
            f"max_tokens {body.max_tokens} and max_completion_tokens {body.max_completion_tokens} mean the same; give one",
            param="max_completion_tokens",
        )
    for name, bound in bounds.items():
        check_value(bound, settings.limits, "max_tokens", param=name)

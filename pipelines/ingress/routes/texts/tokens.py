"""POST /tokenize and /detokenize: texts and conversations to a model's tokens, and back. And GET /tokenizer_info, for whoever writes a
model's prompts himself. Asks no stage. Knows no tokenizer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from fastapi import Request, Response

from pipelines.context import RequestContext
from pipelines.ingress.body.bodies import checked
from pipelines.ingress.request.arrival import Arrival
from pipelines.ingress.request.disconnect import unless_gone
from pipelines.ingress.request.limits import check_length
from pipelines.ingress.request.settings import IngressSettings
from pipelines.ingress.request.whole_answer import WholeAnswer
from pipelines.ingress.routes.texts.language_models import context_of, the_model
from pipelines.ingress.schemas.chat import ChatBody
from pipelines.ingress.schemas.strict import ResponseBody
from pipelines.ingress.schemas.tokens import OF_CHATS, DetokenizeBody, Detokenized, TokenizeBody, Tokenized, TokenizerInfo
from pipelines.jobs import ChatJob, PlainPrompt, Service
from pipelines.threads import Threads
from stages.contract.errors import InvalidRequest

TOKEN_BYTES = 16  # of an answer, about


class ChatJobs(Protocol):
    """How a chat's body becomes a job."""

    async def job(self, body: ChatBody, context: RequestContext) -> ChatJob:
        """Raises `InvalidRequest`."""
        ...


@dataclass(frozen=True, slots=True)
class TokensRoute:
    arrival: Arrival
    settings: IngressSettings
    chats: ChatJobs
    threads: Threads

    async def tokenize(self, request: Request) -> Response:
        context = self.arrival.open(request)
        body = await self.arrival.read(request, TokenizeBody, context)
        _check(body)
        served = self.arrival.served(context.tenant)
        return await unless_gone(request.receive, context, self._tokenized(body, served, context))

    async def detokenize(self, request: Request) -> Response:
        context = self.arrival.open(request)
        body = await self.arrival.read(request, DetokenizeBody, context)
        served = self.arrival.served(context.tenant)
        pipeline = served.text_pipeline(the_model(served, body.model))
        text = await unless_gone(request.receive, context, pipeline.text_of(body.tokens))
        return await self._answer(Detokenized(prompt=text), size=len(text))

    def info(self, model: str, seen: Service) -> TokenizerInfo:
        """`seen`: what of the service whoever asks may see. Raises `InvalidRequest`."""
        model = the_model(seen, model)
        note = seen.text_pipeline(model).tokenizer()
        return TokenizerInfo(
            bos_token=note.begin,
            eos_token=note.end,
            pad_token=note.padding,
            unk_token=note.unknown,
            chat_template=note.chat_template,
            model_max_length=context_of(seen, model),
        )

    async def _tokenized(self, body: TokenizeBody, served: Service, context: RequestContext) -> Response:
        model = the_model(served, body.model)
        texts = served.text_pipeline(model)
        if body.prompt is not None:
            check_length(len(body.prompt), self.settings.limits, param="prompt")
            prompt = PlainPrompt(body.prompt, "prompt", body.add_special_tokens is not False)
            tokens: Sequence[int] = (await texts.read(prompt)).token_ids
        else:
            tokens = await served.chat_pipeline(model).token_ids(await self._conversation(body, model, context))
        spelled = list(await texts.spelled(tokens)) if body.return_token_strs else None
        told = Tokenized(count=len(tokens), max_model_len=context_of(served, model), tokens=list(tokens), token_strs=spelled)
        return await self._answer(told, size=TOKEN_BYTES * len(tokens))

    async def _conversation(self, body: TokenizeBody, model: str, context: RequestContext) -> ChatJob:
        document: dict[str, Any] = {"model": model, "messages": body.messages}
        document |= {name: value for name in OF_CHATS if (value := getattr(body, name)) is not None}
        size = len(body.messages or ()) * TOKEN_BYTES
        return await self.chats.job(await self.threads.parsing.run(size, checked, document, ChatBody), context)

    async def _answer(self, told: ResponseBody, *, size: int) -> Response:
        large = size > 64 * 1024
        return WholeAnswer([await self.threads.answers.run(told.to_json) if large else told.to_json()])


def _check(body: TokenizeBody) -> None:
    """Raises `InvalidRequest` for fields that don't go together."""
    if (body.prompt is None) == (body.messages is None):
        given = "none" if body.prompt is None else "both"
        raise InvalidRequest(f"prompt or messages: give one of them (given: {given})", param="prompt")
    if body.messages is not None and body.add_special_tokens:
        raise InvalidRequest(
            "add_special_tokens goes with prompt; a conversation's template writes them", param="add_special_tokens"
        )
    for name in OF_CHATS if body.messages is None else ():
        if getattr(body, name) is not None:
            raise InvalidRequest(f"{name} goes with messages, not with prompt", param=name)

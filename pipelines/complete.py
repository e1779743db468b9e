"""Plain texts, completed: read the prompts, have the LLM go on with each. And texts to tokens and back, which needs no stage.

Straight-line code over one stage's name. Decides that the prompts of a request, and the choices of each, are pieces that end together,
and that who asks for no answer at all is only told of his prompt. Knows no template, no HTTP and no tensors.
"""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Protocol

from pipelines.answering import Answering
from pipelines.client import StageClient
from pipelines.context import RequestContext
from pipelines.jobs import ChoiceEvents, CompleteJob, CompletionEvent, PlainPrompt, PromptsRead, ReadText, TokenizerNote
from pipelines.routing.prompt_hints import BLOCK_TOKENS, prompt_hints
from pipelines.streams import merged
from pipelines.threads import Threads
from stages.contract.errors import InvalidRequest
from stages.contract.news import NO_HINTS, Hints
from stages.contract.work import Work
from stages.llm.messages import Generate, GenerationEnd, PromptLogprobs, Sampling
from stages.llm.structure.checking import check

CHECK_CHARS = 16  # a character of what an answer is held to is as much work as so many of a prompt
TOKEN_CHARS = 4  # a token of a prompt that is given as tokens is about as much work


class Texts(Protocol):
    """Implemented by `pipelines/prompts/plain.py`. Milliseconds of CPU, on any thread."""

    @property
    def note(self) -> TokenizerNote: ...

    def read(self, prompt: PlainPrompt) -> ReadText: ...

    def text_of(self, token_ids: Sequence[int]) -> str: ...

    def spelled(self, token_ids: Sequence[int]) -> Sequence[str]: ...


class CompletionPipeline:
    """One served model. Implements `pipelines.jobs.TextPipeline`."""

    def __init__(
        self,
        model: str,
        client: StageClient,
        texts: Texts,
        *,
        threads: Threads,
        max_context_tokens: int,
        chunk_tokens: int,
    ) -> None:
        self._client, self._texts, self._threads = client, texts, threads
        self._answering = Answering(f"{model}.llm", client, max_context_tokens=max_context_tokens, chunk_tokens=chunk_tokens)

    async def complete(self, job: CompleteJob, context: RequestContext) -> AsyncGenerator[CompletionEvent, None]:
        if (constraint := job.sampling.constraint) is not None:
            await self._threads.prompts.run_apart(CHECK_CHARS * len(constraint.text), check, constraint)
        num_chars = sum(map(_num_chars, job.prompts))
        asked = await self._threads.prompts.run(num_chars, self._asked, job, context.salt)
        hints = asked[0][2] if len(asked) == 1 else NO_HINTS
        visit = self._answering.visit([payload for _, payload, _ in asked], hints, job.n)
        self._client.admit(
            [visit], deadline=context.deadline, priority=context.priority, tenant=context.tenant, asked=context.asked
        )
        choices = [
            self._choice(prompt * job.n + choice, choice, payload, hints, context, is_read=job.sampling.max_tokens == 0)
            for prompt, (_, payload, hints) in enumerate(asked)
            for choice in range(job.n)
        ]
        started = False
        async with aclosing(choices[0] if len(choices) == 1 else merged(choices)) as events:
            async for event in events:
                if not started:
                    started = True
                    yield PromptsRead(tuple(read for read, _, _ in asked))
                yield event

    async def read(self, prompt: PlainPrompt) -> ReadText:
        return await self._threads.prompts.run(_num_chars(prompt), self._texts.read, prompt)

    def tokenizer(self) -> TokenizerNote:
        return self._texts.note

    async def text_of(self, token_ids: Sequence[int]) -> str:
        return await self._threads.prompts.run(TOKEN_CHARS * len(token_ids), self._texts.text_of, token_ids)

    async def spelled(self, token_ids: Sequence[int]) -> Sequence[str]:
        return await self._threads.prompts.run(TOKEN_CHARS * len(token_ids), self._texts.spelled, token_ids)

    def _asked(self, job: CompleteJob, salt: str) -> Sequence[tuple[ReadText, Generate, Hints]]:
        """What the LLM is asked for each prompt, and what its beginnings are called. Off the event loop."""
        return [self._asked_one(prompt, job.sampling, salt) for prompt in job.prompts]

    def _asked_one(self, prompt: PlainPrompt, sampling: Sampling, salt: str) -> tuple[ReadText, Generate, Hints]:
        read = self._texts.read(prompt)
        if not read.token_ids:
            raise InvalidRequest(f"{prompt.param} has no tokens; it needs at least 1", param=prompt.param)
        bounded = replace(sampling, max_tokens=max(1, sampling.max_tokens))  # the last token's logits are there in any case
        fitting = self._answering.fit(bounded, len(read.token_ids), may_shorten=False, param=prompt.param)
        payload = Generate(read.token_ids, fitting, salt=salt)
        if sampling.prompt_logprobs is not None:
            return read, payload, NO_HINTS  # nothing that is remembered spares it anything
        each = Work(BLOCK_TOKENS, BLOCK_TOKENS / self._answering.chunk_tokens)
        return read, payload, Hints(prompt_hints(salt, read.token_ids), each, unit="tokens")

    async def _choice(
        self, index: int, of_prompt: int, payload: Generate, hints: Hints, context: RequestContext, *, is_read: bool
    ) -> AsyncGenerator[ChoiceEvents, None]:
        """`is_read`: without the answer."""
        async with aclosing(self._answering.choice(index, payload, hints, context, seed_offset=of_prompt)) as heard:
            async for choice in heard:
                yield _without_answer(choice) if is_read else choice


def _without_answer(choice: ChoiceEvents) -> ChoiceEvents:
    kept: list[PromptLogprobs | GenerationEnd] = []
    for event in choice.events:
        match event:
            case PromptLogprobs():
                kept.append(event)
            case GenerationEnd():
                kept.append(GenerationEnd("length", 0, event.cached_tokens))
    return ChoiceEvents(choice.index, kept)


def _num_chars(prompt: PlainPrompt) -> int:
    return len(prompt.content) * (1 if isinstance(prompt.content, str) else TOKEN_CHARS)

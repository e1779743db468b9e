"""What follows once a prompt's tokens are known: have the LLM answer it, a stream for each choice.

Decides how long an answer may be beside its prompt, how much work that is expected to be, and that choices differ by their seed. Knows
no conversation, no template and no HTTP: chats and plain texts are answered alike.
"""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace

from pipelines.client import StageClient, Visit
from pipelines.context import RequestContext
from pipelines.jobs import ChoiceEvents
from stages.contract.errors import InvalidRequest, StageFailed
from stages.contract.item import InputReceipts, StreamEnd
from stages.contract.news import Hints
from stages.contract.work import Work
from stages.llm.answers.lengths import AnswerLengths
from stages.llm.messages import Generate, GenerationEnd, PromptLogprobs, Sampling, TokenDelta
from stages.llm.work import answer_work


class Answering:
    """Of one model's LLM, named `stage`, which reads prompts in chunks."""

    def __init__(self, stage: str, client: StageClient, *, max_context_tokens: int, chunk_tokens: int) -> None:
        self._stage, self._client = stage, client
        self.max_context_tokens, self.chunk_tokens = max_context_tokens, chunk_tokens
        self._lengths = AnswerLengths()

    def fit(self, sampling: Sampling, num_prompt_tokens: int, *, may_shorten: bool, param: str) -> Sampling:
        """What is asked, with a bound that was the model's own no longer than the context. Raises `InvalidRequest`, for the field that
        the prompt came from or for `max_tokens`, where prompt and answer together are longer."""
        limit, asked = self.max_context_tokens, sampling.max_tokens
        room = limit - num_prompt_tokens
        if room < 1:
            raise InvalidRequest(
                f"{param}: a prompt of {num_prompt_tokens} tokens leaves no room for an answer in the context of {limit} "
                "(models.*.llm.max_context_tokens); shorten it",
                param=param,
            )
        if asked <= room:
            return sampling
        if may_shorten:
            return replace(sampling, max_tokens=room)
        raise InvalidRequest(
            f"max_tokens {asked} and the prompt's {num_prompt_tokens} tokens are together over the context of "
            f"{limit} (models.*.llm.max_context_tokens); at most {room} fit",
            param="max_tokens",
        )

    def visit(self, payloads: Sequence[Generate], hints: Hints, num_choices: int) -> Visit:
        """All answers to all prompts beside one another. `hints`: of a single prompt."""
        works = [self._work(payload) for payload in payloads]
        work = Work(sum(work.amount for work in works), max(work.steps for work in works))
        return Visit(self._stage, work.beside(num_choices), hints)

    def _work(self, payload: Generate) -> Work:
        num_answer = self._lengths.expected(payload.sampling.max_tokens)
        return answer_work(len(payload.token_ids), num_answer, self.chunk_tokens)

    async def choice(
        self, index: int, payload: Generate, hints: Hints, context: RequestContext, *, seed_offset: int | None = None
    ) -> AsyncGenerator[ChoiceEvents, None]:
        """The events of the choice `index`, of which the last is a `GenerationEnd`. `seed_offset`: which of the choices of its prompt it
        is; None: that is its index."""
        if payload.sampling.seed is not None:
            seed = (payload.sampling.seed + (index if seed_offset is None else seed_offset)) % 2**63
            payload = replace(payload, sampling=replace(payload.sampling, seed=seed))
        ended = False
        item = context.item(f"choice:{index}", payload, work=self._work(payload), hints=hints)
        async with aclosing(self._client.stream(self._stage, item, lost=context.lost_replicas)) as batches:
            async for batch in batches:
                events: list[PromptLogprobs | TokenDelta | GenerationEnd] = []
                for event in batch:
                    match event:
                        case TokenDelta() | PromptLogprobs():
                            events.append(event)
                        case GenerationEnd():
                            events.append(event)
                            self._lengths.saw(event.completion_tokens, was_cut=event.reason == "length")
                        case InputReceipts():
                            context.add(*event.receipts)
                        case StreamEnd():
                            context.add(event.receipt)
                ended = ended or any(isinstance(event, GenerationEnd) for event in events)
                if events:
                    yield ChoiceEvents(index, events)
        if not ended:
            raise StageFailed(f"{self._stage} ended its stream without an end")

"""What follows once a prompt's tokens are known: have the LLM answer it, a stream for each choice.

Decides how long an answer may be beside its prompt, how much work that is expected to be, that choices differ by their seed, and what is
asked of whoever takes over where a replica ended in the middle of one: the rest, behind what was heard of it, so that nobody sees more than
a pause. Knows no conversation, no template and no HTTP: chats and plain texts are answered alike.
"""

from collections import deque
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import TypeAlias

from pipelines.client import Rest, StageClient, Visit
from pipelines.context import RequestContext
from pipelines.jobs import ChoiceEvents
from stages.contract.errors import InvalidRequest, StageFailed, TriptychError
from stages.contract.item import InputReceipts, ReplicaEnded, StreamEnd
from stages.contract.news import Hints
from stages.contract.work import Work
from stages.llm.answers.lengths import AnswerLengths
from stages.llm.messages import Generate, GenerationEnd, PromptLogprobs, Sampling, SoFar, TokenDelta, TokenLogprob
from stages.llm.work import answer_work

KEPT_S = 2.0
"""How much of an answer's time may be lost with its replica, where nobody reads along."""

_Event: TypeAlias = PromptLogprobs | TokenDelta | GenerationEnd


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
        num_told = len(payload.so_far.token_ids)
        num_more = self._lengths.expected(payload.sampling.max_tokens, num_told) - num_told
        return answer_work(len(payload.token_ids) + num_told, num_more, self.chunk_tokens)

    async def choice(
        self, index: int, payload: Generate, hints: Hints, context: RequestContext, *, seed_offset: int | None = None
    ) -> AsyncGenerator[ChoiceEvents, None]:
        """The events of the choice `index`, of which the last is a `GenerationEnd`. `seed_offset`: which of the choices of its prompt it
        is; None: that is its index."""
        if payload.sampling.seed is not None:
            seed = (payload.sampling.seed + (index if seed_offset is None else seed_offset)) % 2**63
            payload = replace(payload, sampling=replace(payload.sampling, seed=seed))
        item = context.item(f"choice:{index}", payload, work=self._work(payload), hints=hints)
        item, told = replace(item, kept_s=KEPT_S), _Told(payload)

        def again() -> Rest | None:
            rest = told.rest()
            return None if rest is None else Rest(rest, self._work(rest))

        try:
            async with aclosing(self._client.stream(self._stage, item, again=again, lost=context.lost_replicas)) as batches:
                async for batch in batches:
                    if events := self._heard(batch, context):
                        told.add(events)
                        yield ChoiceEvents(index, events)
        except TriptychError:
            if not told.is_whole:
                raise  # else only the stage's last word on it is missing
        if not told.is_whole:
            raise StageFailed(f"{self._stage} ended its stream without an end")

    def _heard(self, batch: Sequence[object], context: RequestContext) -> Sequence[_Event]:
        events: list[_Event] = []
        for event in batch:
            match event:
                case TokenDelta() | PromptLogprobs():
                    events.append(event)
                case GenerationEnd():
                    events.append(event)
                    self._lengths.saw(event.completion_tokens, was_cut=event.reason == "length")
                case InputReceipts():
                    context.add(*event.receipts)
                case ReplicaEnded() | StreamEnd():
                    context.add(event.receipt)
        return events


class _Told:
    """How far the answer to `payload` has come, by what was heard of it."""

    def __init__(self, payload: Generate) -> None:
        self._payload = payload
        self._token_ids: list[int] = []
        self._unshown: deque[TokenLogprob] = deque()
        self._num_tokens = self._num_scored = 0
        self.is_whole = False

    def add(self, events: Sequence[_Event]) -> None:
        for event in events:
            match event:
                case TokenDelta():
                    self._num_tokens += event.num_tokens
                    self._token_ids += event.token_ids
                    self._unshown += event.chosen
                    for _ in range(min(len(event.logprobs), len(self._unshown))):
                        self._unshown.popleft()
                case PromptLogprobs():
                    self._num_scored += len(event.logprobs)
                case GenerationEnd():
                    self.is_whole = True

    def rest(self) -> Generate | None:
        """What is still to be done. None: nothing is, or the stage doesn't tell which tokens it chose."""
        if self.is_whole or self._num_tokens != len(self._token_ids):
            return None
        return replace(self._payload, so_far=SoFar(tuple(self._token_ids), tuple(self._unshown), self._num_scored))

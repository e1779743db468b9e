"""Doing a batch: its lines through the app, some at a time, and what came of each kept as it comes.

Decides that a line whose answer is there is not asked again, whoever goes on with the batch; that one which finds the server busy waits,
and takes nobody's place meanwhile; and that a batch whose time is up is told as far as it came. Knows no route but by its path.
"""

import asyncio
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from starlette.types import ASGIApp

from pipelines.ingress.kept.files import KeptFiles
from pipelines.ingress.kept.kept_values import KeptFull, KeptValues, Kind, Owner
from pipelines.ingress.kept.work import MAX_PAUSE_S, Task
from pipelines.ingress.request.offline import Offline, OfflineAnswer, ask
from pipelines.ingress.routes.batches import outcomes
from pipelines.ingress.routes.batches.lines import Fault, Line, read_lines
from pipelines.ingress.routes.batches.outcomes import Outcome
from pipelines.threads import Threads
from stages.concurrency.together import stopped
from stages.contract.errors import TooLarge

JsonObject = Mapping[str, Any]

SAVE_S = 5.0
"""What came in so much time may be lost, and asked again, where the process ends."""
SAVE_LINES = 64
PAUSE_S = 1.0  # after a refusal that says nothing else
BUSY = (429, 503)


@dataclass(frozen=True, slots=True)
class BatchBounds:
    """`lines`: of one batch; `at_once`: of all of a process's batches; `answer_s`: for one line."""

    lines: int
    at_once: int
    answer_s: float


@dataclass(slots=True)
class _Progress:
    """`unsaved`: outcomes that are in no part yet; `num_parts`: that are kept."""

    total: int
    outcomes: dict[int, Outcome] = field(default_factory=dict)
    unsaved: list[Outcome] = field(default_factory=list)
    num_parts: int = 0
    saved_at: float = field(default_factory=time.monotonic)

    def add(self, outcome: Outcome) -> None:
        self.outcomes[outcome.number] = outcome
        self.unsaved.append(outcome)

    def counts(self) -> dict[str, int]:
        num_good = sum(outcome.is_good for outcome in self.outcomes.values())
        return {"total": self.total, "completed": num_good, "failed": len(self.outcomes) - num_good}

    def is_to_be_saved(self) -> bool:
        return len(self.unsaved) >= SAVE_LINES or (bool(self.unsaved) and time.monotonic() - self.saved_at >= SAVE_S)


class BatchWorker:
    """A `Worker` of kept work. `app`: what answers the lines, also those of a batch that began by earlier settings."""

    def __init__(
        self,
        app: ASGIApp,
        values: KeptValues,
        files: KeptFiles,
        parts: Kind,
        threads: Threads,
        bounds: BatchBounds,
        *,
        told_error: Callable[[str, Exception], JsonObject],
        owner_of: Callable[[str], Owner | None],
    ) -> None:
        self._app, self._values, self._files, self._parts = app, values, files, parts
        self._threads, self._bounds = threads, bounds
        self._room = asyncio.Semaphore(bounds.at_once)
        self._told_error, self._owner_of = told_error, owner_of

    async def run(self, task: Task, report: Callable[[JsonObject], None]) -> JsonObject:
        """What is told of it: `counts`, and the ids of its files or its `faults`. It ends by itself just before its time is up."""
        if (known := await self._ended(task.id, task.owner)) is not None:
            await self._clear_up(task.id, task.owner)
            return known
        content = await self._files.content(task.about["input_file_id"], task.owner)
        if content is None:
            return _faulty([Fault("input_file_not_found", "the input file is not there any more")])
        endpoint = str(task.about["endpoint"])
        lines, faults = await self._threads.parsing.run(
            len(content), read_lines, content, endpoint, max_lines=self._bounds.lines
        )
        if faults:
            return _faulty(faults)
        progress = await self._so_far(task.id, task.owner, len(lines))
        report({"counts": progress.counts()})
        try:
            is_late = await self._answer_all(task, endpoint, lines, progress, report)
            return await self._finish(task.id, task.owner, lines, progress, is_late=is_late)
        except KeptFull as error:
            raise TooLarge(f"the batch's answers are more than may be kept: {error.message}") from error

    async def end_early(self, id: str, about: JsonObject, owner: Owner) -> JsonObject:
        """What is told of a batch that was called off: what was answered by then. Written down by whoever asks first."""
        if (known := await self._ended(id, owner)) is not None:
            return known
        content = await self._files.content(str(about["input_file_id"]), owner) or b""
        lines, _ = await self._threads.parsing.run(
            len(content), read_lines, content, str(about["endpoint"]), max_lines=self._bounds.lines
        )
        return await self._finish(id, owner, (), await self._so_far(id, owner, len(lines)), is_late=False)

    async def forget(self, id: str, owner: Owner) -> None:
        await self._values.delete_all(self._parts, f"{id}-", owner)

    def told_error(self, task_id: str, error: Exception) -> JsonObject:
        return self._told_error(task_id, error)

    def owner_of(self, tenant: str) -> Owner | None:
        return self._owner_of(tenant)

    async def _answer_all(
        self, task: Task, endpoint: str, lines: Sequence[Line], progress: _Progress, report: Callable[[JsonObject], None]
    ) -> bool:
        """Whether its time was up before all were answered."""
        until = float(task.about["until"])
        waiting = [line for line in lines if line.number not in progress.outcomes]
        waiting.reverse()
        running: set[asyncio.Task[Outcome]] = set()
        try:
            while (waiting or running) and time.time() < until:
                while waiting and len(running) < self._bounds.at_once:
                    running.add(asyncio.create_task(self._answer(task, endpoint, waiting.pop())))
                wait_s = min(SAVE_S, max(0.0, until - time.time()))
                done, running = await asyncio.wait(running, timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
                for each in done:
                    progress.add(each.result())
                if progress.is_to_be_saved():
                    await self._save(task.id, task.owner, progress)
                report({"counts": progress.counts()})
        finally:
            await stopped(*running)
            if progress.unsaved:
                await self._save(task.id, task.owner, progress)
        return bool(waiting or running)

    async def _answer(self, task: Task, endpoint: str, line: Line) -> Outcome:
        while True:
            async with self._room:
                deadline = min(float(task.about["until"]), time.time() + self._bounds.answer_s)
                answer = await ask(self._app, endpoint, line.body, Offline(task.owner, deadline))
            if answer.status not in BUSY:
                return _outcome(line, answer)
            await asyncio.sleep(min(MAX_PAUSE_S, answer.retry_after_s or PAUSE_S))

    async def _so_far(self, id: str, owner: Owner, total: int) -> _Progress:
        """What whoever did it before has left."""
        progress = _Progress(total)
        while (part := await self._values.get(self._parts, f"{id}-{progress.num_parts}", owner)) is not None:
            progress.num_parts += 1
            for outcome in await self._threads.answers.run(outcomes.read_part, part):
                progress.outcomes[outcome.number] = outcome
        return progress

    async def _save(self, id: str, owner: Owner, progress: _Progress) -> None:
        part = await self._threads.answers.run(outcomes.part_of, progress.unsaved)
        await self._values.put(self._parts, f"{id}-{progress.num_parts}", part, owner)
        progress.num_parts += 1
        progress.unsaved, progress.saved_at = [], time.monotonic()

    async def _ended(self, id: str, owner: Owner) -> JsonObject | None:
        """How it ended, where its files are written, whatever became of who wrote them."""
        known = await self._values.get(self._parts, f"{id}-ended", owner)
        return dict(json.loads(known)) if known is not None else None

    async def _finish(self, id: str, owner: Owner, lines: Sequence[Line], progress: _Progress, *, is_late: bool) -> JsonObject:
        """Writes the files, and what is told of it, before what they were made of goes. Lines that were not answered are told of as
        such."""
        for line in lines:
            if line.number not in progress.outcomes:
                progress.outcomes[line.number] = _unanswered(line)
        told: JsonObject = {"counts": progress.counts(), "is_late": is_late}
        for name, is_good in (("output", True), ("error", False)):
            content = await self._threads.answers.run(outcomes.file_of, progress.outcomes, is_good=is_good)
            if content:
                file_id = f"file-{id}-{name}"
                await self._files.put(file_id, f"{id}_{name}.jsonl", "batch_output", content, owner)
                told = {**told, f"{name}_file_id": file_id}
        if not await self._values.put(self._parts, f"{id}-ended", json.dumps(told).encode(), owner):
            told = await self._ended(id, owner) or told  # somebody else wrote the files
        await self._clear_up(id, owner)
        return told

    async def _clear_up(self, id: str, owner: Owner) -> None:
        await self._values.delete_all(self._parts, f"{id}-", owner, besides=f"{id}-ended")


def _faulty(faults: Sequence[Fault]) -> JsonObject:
    return {"counts": {"total": 0, "completed": 0, "failed": 0}, "faults": [fault.to_json() for fault in faults]}


def _outcome(line: Line, answer: OfflineAnswer) -> Outcome:
    is_good = answer.status < 400
    response = {"status_code": answer.status, "request_id": answer.request_id}
    before = json.dumps({"id": _id(line, answer.request_id), "custom_id": line.custom_id, "error": None, "response": response})
    return Outcome(line.number, is_good, f'{before[:-2]}, "body": {_on_one_line(answer.body)}}}}}')


def _unanswered(line: Line) -> Outcome:
    error = {"code": "batch_expired", "message": "the batch's time was up before this request was answered"}
    told = {"id": _id(line, "expired"), "custom_id": line.custom_id, "response": None, "error": error}
    return Outcome(line.number, False, json.dumps(told))


def _id(line: Line, request_id: str) -> str:
    return f"batch_req_{request_id}_{line.number}"


def _on_one_line(body: bytes) -> str:
    """JSON of which nothing ends a line, also of text in Unicode: within its values that is written as an escape, and between them our own
    has none."""
    text = body.decode()
    for end in _LINE_ENDS:
        text = text.replace(end, f"\\u{ord(end):04x}")
    return text


_LINE_ENDS = "\x85\u2028\u2029"

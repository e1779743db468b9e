"""`python -m benchmarks.over_http`: what serving costs the LLM: tokens a second over HTTP, beside the same pipeline and engines in one
process, without HTTP and without Ray (about 12 minutes on 2 cores; on a quiet machine).

Both sides have the same model, slots, threads and questions, about nothing and about an image each, and take turns: the process
runs while the cluster stands idle beside it. Decides loads and goals.
"""

from __future__ import annotations

import asyncio
import base64
import io
import statistics
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from benchmarks.llm.checkpoint import save_llava
from benchmarks.llm.questions import NUM_TOKENS, image_questions, text_questions
from benchmarks.llm.sides import (
    GREEDY,
    MODEL,
    SAMPLED,
    THREADS,
    Choosing,
    Measured,
    Question,
    as_measured,
    http_side,
    triptych_config,
)
from benchmarks.loads.load import Load, closed_loop
from benchmarks.reporting.command import results_folder, start, tell
from benchmarks.reporting.report import Goal, Report
from benchmarks.servers.triptych import served
from pipelines.context import RequestContext
from pipelines.jobs import ChatJob, ChoiceEvents, ImagePart, Message, TextPart
from pipelines.one_process import one_process
from pipelines.service import Triptych
from pipelines.settings.config_file import parse
from pipelines.settings.schema.config import AppConfig
from stages.device.openmp import limit_threads, on_passing_thread
from stages.llm.messages import GenerationEnd, Sampling

SLOTS = 16
LOADS = (8, 16)
TURNS = 2
ASKED = {"chat": text_questions, "chat about images": image_questions}


def main() -> None:
    quick = start(__doc__)
    loads, turns, num_tokens = ((4,), 1, 8) if quick else (LOADS, TURNS, NUM_TOKENS)
    report = Report("over_http", {"slots": SLOTS, "threads": THREADS, "tokens_out": num_tokens, "turns": turns})
    with tempfile.TemporaryDirectory(prefix="benchmark-") as name:
        folder = Path(name)
        on_passing_thread(lambda: save_llava(folder))
        config = triptych_config(folder, SLOTS)
        with served(config) as url, InProcess(parse(config["applications"][0]["args"])) as alone:
            http = http_side(url)
            for kind, ask in ASKED.items():
                for load in loads:
                    for choosing in (GREEDY, SAMPLED):
                        speeds: dict[str, list[float]] = {"engine": [], "HTTP": []}
                        for turn in range(turns):
                            for side, answer in (("engine", alone.answer), ("HTTP", http.answer)):
                                questions = ask(2 * load + turn)[: 2 * load]
                                found = answer(questions, concurrency=load, num_tokens=num_tokens, choosing=choosing)
                                speeds[side].append(found.tokens_per_s)
                        tell(f"{kind}, {load} at once, {choosing.name}: {speeds}")
                        _add(report, kind, load, choosing, speeds)
    report.publish(results_folder(quick=quick))


def _add(report: Report, kind: str, load: int, choosing: Choosing, speeds: dict[str, list[float]]) -> None:
    medians = {side: statistics.median(found) for side, found in speeds.items()}
    for side, found in speeds.items():
        report.add(
            side=side,
            load=f"{kind}, {load} at once",
            choosing=choosing.name,
            tokens_per_s=round(medians[side], 1),
            lowest=round(min(found), 1),
            highest=round(max(found), 1),
        )
    report.goals.append(
        Goal(f"HTTP / engine: {kind}, {load} at once, {choosing.name}", medians["HTTP"] / medians["engine"], 0.85)
    )


class InProcess:
    """The service in this process, on an event loop of its own."""

    def __init__(self, config: AppConfig) -> None:
        limit_threads(THREADS)
        self._config = config
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._running = one_process(config)

    def __enter__(self) -> InProcess:
        self._thread.start()
        self._service: Triptych = asyncio.run_coroutine_threadsafe(self._running.__aenter__(), self._loop).result()
        return self

    def __exit__(self, *error: object) -> None:
        asyncio.run_coroutine_threadsafe(self._running.__aexit__(None, None, None), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def answer(self, questions: Sequence[Question], *, concurrency: int, num_tokens: int, choosing: Choosing) -> Measured:
        work = self._load(questions, concurrency, num_tokens, choosing)
        return as_measured(asyncio.run_coroutine_threadsafe(work, self._loop).result(), num_tokens)

    async def _load(self, questions: Sequence[Question], concurrency: int, num_tokens: int, choosing: Choosing) -> Load[int]:
        sampling = Sampling(num_tokens, temperature=choosing.temperature, top_p=choosing.top_p, ignore_eos=True)

        async def send(index: int) -> int:
            job = ChatJob((Message("user", _parts(questions[index])),), sampling)
            context = RequestContext(id=f"{id(questions)}-{index}", pace_s=float("inf"))
            length = 0
            async for event in self._service.chat_pipeline(MODEL).chat(job, context):
                if isinstance(event, ChoiceEvents) and isinstance(event.events[-1], GenerationEnd):
                    length = event.events[-1].completion_tokens
            return length

        return await closed_loop(send, len(questions), concurrency=concurrency)


def _parts(question: Question) -> tuple[TextPart | ImagePart, ...]:
    text = TextPart(question.text)
    if not question.address:
        return (text,)
    data = base64.b64decode(question.address.partition(",")[2])
    return ImagePart(data, *Image.open(io.BytesIO(data)).size, "messages[0].content[0]"), text


if __name__ == "__main__":
    main()

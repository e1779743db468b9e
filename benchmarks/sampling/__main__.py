"""`python -m benchmarks.sampling`: what choosing tokens costs, and whether a seeded answer depends on its neighbours.

Cost: `sample` over SmolLM2's own distributions, with the texts of log probabilities, as a share of a decoding step of as many
rows; in turns, on the same threads. Over a vocabulary of 152 k (the same distributions, made wider) as a multiple of what
choosing took before: softmax and cumulated sum over all tokens in float64. Agreement: `benchmarks/sampling/agreement.py`. Decides
mixes and goals.
"""

from __future__ import annotations

import random
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.llm.checkpoint import save_text_model
from benchmarks.llm.rows import started
from benchmarks.reporting.command import results_folder, start, tell
from benchmarks.reporting.report import Goal, Report
from benchmarks.sampling.agreement import agreement
from benchmarks.sampling.mixes import MIXED, MIXES, samplers_of
from stages.checkpoints.checkpoint import LoadOptions, Source, resolve
from stages.device.openmp import on_passing_thread
from stages.llm.answers.detokenizer import TokenTexts
from stages.llm.llm import Llm
from stages.llm.messages import Generate, Sampling
from stages.llm.sampling.sampling import RowSampler, sample
from stages.llm.settings import LlmSettings

THREADS = 2
ROWS = (1, 16)
MAX_SHARE = 0.05
WIDE = 151_936


def main() -> None:
    quick = start(__doc__)
    torch.set_num_threads(THREADS)
    report = Report("sampling", {"threads": THREADS, "model": "SmolLM2-135M"})
    with tempfile.TemporaryDirectory(prefix="benchmark-") as name:
        folder = save_text_model(Path(name))
        for dtype in _dtypes_of_this_cpu():
            tell(f"loading SmolLM2 in {dtype}")
            llm = on_passing_thread(lambda dtype=dtype: _load(folder, dtype))  # type: ignore[misc]
            _cost(report, llm, dtype, folder, turns=1 if quick else 20)
            tell(f"seeded answers in {dtype}, alone and beside others")
            agreement(report, llm, folder, dtype, num_answers=1 if quick else 10, num_tokens=6 if quick else 60)
        _wide(report, _distributions(folder, max(ROWS)), turns=3 if quick else 20)
    report.publish(results_folder(quick=quick))


def _dtypes_of_this_cpu() -> list[str]:
    """float32, and bfloat16 where oneDNN multiplies it: elsewhere nobody serves it, and a step takes three times as long."""
    return ["float32", "bfloat16"] if torch.ops.mkldnn._is_mkldnn_bf16_supported() else ["float32"]


def _load(folder: Path, dtype: str) -> Llm:
    return Llm.load(resolve(Source(folder=str(folder))), LoadOptions(dtype=dtype), LlmSettings(max(ROWS), 512, 256))


def _cost(report: Report, llm: Llm, dtype: str, folder: Path, *, turns: int) -> None:
    tell(f"the cost of choosing, in {dtype}")
    logits = _distributions(folder, max(ROWS)).to(getattr(torch, dtype))
    texts = TokenTexts(_tokenizer(folder).backend_tokenizer)
    dearest = 0.0
    for count in ROWS:
        rows = [started(llm, _work(index)) for index in range(count)]
        llm.step(rows)  # reads the prompts
        sides: dict[str, Callable[[], object]] = {"step": lambda rows=rows: llm.step(rows)}  # type: ignore[misc]
        for mix, samplers in samplers_of(count).items():
            sides[mix] = _choosing(logits[:count], samplers, texts)
        seconds = _in_turns(sides, turns)
        for row in rows:
            llm.finish(row)
        for mix in (*MIXES, MIXED):
            share = seconds[mix] / seconds["step"]
            dearest = max(dearest, share)
            report.add(
                what="cost",
                dtype=dtype,
                vocabulary=logits.shape[1],
                rows=count,
                mix=mix,
                ms=_ms(seconds[mix]),
                share=_3(share),
            )
        report.notes.append(f"a step of {count} rows in {dtype}, greedy choosing included: {_ms(seconds['step'])} ms")
    report.goals.append(Goal(f"choosing / step in {dtype}, the dearest mix", dearest, MAX_SHARE, at_most=True))


def _wide(report: Report, logits: Tensor, *, turns: int) -> None:
    """A vocabulary of 152 k, with nothing but choosing."""
    tell("a vocabulary of 152 k")
    copies = [logits - 6.0 * place for place in range(-(-WIDE // logits.shape[1]))]
    wide = torch.cat(copies, dim=1)[:, :WIDE].contiguous()
    for count in ROWS:
        these = wide[:count]
        sides: dict[str, Callable[[], object]] = {"before": lambda these=these: _before(these)}  # type: ignore[misc]
        sides |= {mix: _choosing(these, samplers, None) for mix, samplers in samplers_of(count).items()}
        seconds = _in_turns(sides, turns)
        for mix in (*MIXES, MIXED):
            ratio = seconds[mix] / seconds["before"]
            report.add(what="cost", vocabulary=WIDE, rows=count, mix=mix, ms=_ms(seconds[mix]), of_float64_cdf=_3(ratio))


def _before(logits: Tensor) -> Tensor:
    return torch.softmax(logits.double(), dim=-1).cumsum(dim=-1)


def _choosing(logits: Tensor, samplers: Sequence[RowSampler], texts: TokenTexts | None) -> Callable[[], None]:
    """A choice for every row, and what is told of it."""

    def once() -> None:
        for chosen in sample(logits, samplers):
            if texts is not None and chosen.top:
                texts.logprob(chosen.token, chosen.logprob, tuple(texts.logprob(*one) for one in chosen.top))

    return once


def _in_turns(sides: dict[str, Callable[[], object]], turns: int) -> dict[str, float]:
    """Median seconds of each, all taking turns."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(turns + 1):
        for name, once in sides.items():
            began = time.perf_counter()
            once()
            seconds[name].append(time.perf_counter() - began)
    return {name: statistics.median(found[1:]) for name, found in seconds.items()}


def _distributions(folder: Path, count: int) -> Tensor:
    """SmolLM2's logits [count, vocabulary] at places of a text, from sure to unsure."""
    from transformers import AutoModelForCausalLM

    model: Any = on_passing_thread(lambda: AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval())
    text = (
        "Bread is older than writing. People mixed flour with water, and baked it on hot stones by the sea. Once upon a time"
    )
    ids = _tokenizer(folder)(text, return_tensors="pt").input_ids
    with torch.inference_mode():
        logits: Tensor = model(ids).logits[0, 4 : 4 + count].float().contiguous()
    return logits


def _tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


def _work(seed: int) -> Generate:
    source = random.Random(seed)
    tokens = tuple(source.randrange(100, 40_000) for _ in range(40))
    return Generate(tokens, Sampling(max_tokens=400, temperature=0.0), salt=str(seed))


def _ms(seconds: float) -> float:
    return round(1000 * seconds, 2)


def _3(ratio: float) -> float:
    return round(ratio, 3)


if __name__ == "__main__":
    main()

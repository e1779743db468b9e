"""Whether language models answer on the device as the library's own `generate` does there: in chunks, beside others, after shared
beginnings, from pages of another's slots, with decoding steps replayed. Knows nothing of speed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.checkpoints import language_model
from benchmarks.gpu.part import Part
from stages.checkpoints.checkpoint import LoadOptions, Source, resolve
from stages.contract.errors import ConfigurationError
from stages.llm.llm import Llm
from stages.llm.messages import Generate
from stages.llm.settings import LlmSettings
from tests.stages.llm.driving import Answer, drive, exported
from tests.stages.llm.library.oracle import PAGED, requests
from tests.stages.llm.library.tiny_architectures import save_architecture

ARCHITECTURES = ("cohere2", "deepseek_v3", "gemma2", "gemma3_text", "gpt2", "gpt_oss", "llama", "llama4_text", "mixtral", "opt",
                 "phi3", "qwen3", "qwen3_moe", "falcon", "bloom", "rwkv")  # fmt: skip
SETTINGS = LlmSettings(4, 1024, 64)


def run(part: Part) -> None:
    with part.trying("Qwen2.5-1.5B in float32"):
        _real_size(part)
    with part.trying("Qwen2.5-1.5B in bfloat16"):
        _in_its_own_dtype(part)
    for kind in ARCHITECTURES:
        with part.trying(kind):
            _tiny(part, kind)
    with part.trying("vision-language models"):
        _seeing(part)


def _real_size(part: Part) -> None:
    folder = language_model(part)
    arrivals = requests(seed=0, count=8, longest=part.pick(400, 60), most=part.pick(24, 8))
    expected = _generated(folder, part.device, arrivals)
    llm = load(folder, part.device, "float32", SETTINGS)
    answers = drive(llm, arrivals)
    part.add(what="equal to generate, float32", ok=_equal(answers, expected), replayed=_replays(llm), prompts=len(arrivals))
    llm._forward.forget_recorded()
    part.add(what="equal without replaying", ok=_equal(drive(llm, arrivals), expected))
    paged = LlmSettings(3, 1024, 64, page_tokens=16)
    first, second = (load(folder, part.device, "float32", paged) for _ in range(2))
    drive(first, arrivals)
    pages = exported(first)
    again = drive(second, arrivals, pages=pages)
    part.add(
        what="equal from another's pages",
        ok=_equal(again, expected) and any(answer.brought for answer in again),
        pages=len(pages),
    )


def _in_its_own_dtype(part: Part) -> None:
    folder = language_model(part)
    llm = load(folder, part.device, "bfloat16", SETTINGS)
    arrivals = requests(seed=1, count=8, longest=part.pick(400, 60))
    alone = [drive(llm, [(0, work)])[0].tokens for _, work in arrivals]
    together = drive(llm, arrivals)
    equal = sum(ours == theirs.tokens for ours, theirs in zip(alone, together, strict=True))
    part.add(what="answers end, bfloat16", ok=all(one.end is not None for one in together), equal_beside_others=equal)
    eight = load(folder, part.device, "bfloat16", LlmSettings(3, 1024, 64, page_tokens=16, page_dtype="int8"))
    drive(eight, arrivals)
    part.add(what="pages of int8", ok=bool(exported(eight)))
    if part.device == "cuda":
        part.add(
            what="memory",
            ok=True,
            allocated_mib=torch.cuda.memory_allocated() // 2**20,
            peak_mib=torch.cuda.max_memory_allocated() // 2**20,
        )


def _tiny(part: Part, kind: str) -> None:
    folder = save_architecture(kind, part.folder / f"tiny-{kind}")
    arrivals = requests(seed=0, count=6, longest=80, most=14)
    expected = _generated(folder, part.device, arrivals)
    try:
        llm = load(folder, part.device, "float32", LlmSettings(4, 128, 16))
    except ConfigurationError as error:
        part.add(what=kind, ok=True, verdict=f"refused: {error.message.replace(str(folder), 'the checkpoint')[:120]}")
        return
    ok, replayed = _equal(drive(llm, arrivals), expected), _replays(llm)
    first, second = (load(folder, part.device, "float32", PAGED) for _ in range(2))
    drive(first, arrivals)
    from_pages = _equal(drive(second, arrivals, pages=exported(first)), expected)
    part.add(what=kind, ok=ok and from_pages, verdict="equal" if ok else "WRONG", from_pages=from_pages, replayed=replayed)


def _seeing(part: Part) -> None:
    """Tower and decoder on the device against the whole model in this machine's memory."""
    import random

    from pipelines.prompts.prompt import PromptBuilder
    from stages.vision.vlm.encoder import VlmEncoder
    from tests.stages.llm.library.test_vlm_oracle import Parts, asked, whole_answer
    from tests.stages.llm.tiny_vlms import save_llava, save_llava_siglip, save_qwen2_5_vl

    options = LoadOptions(device=part.device)
    for save in (save_llava, save_llava_siglip, save_qwen2_5_vl):
        kind = save.__name__.removeprefix("save_")
        with part.trying(kind):
            checkpoint = resolve(Source(folder=str(save(part.folder / f"tiny-{kind}"))))
            parts = Parts(checkpoint, PromptBuilder.load(checkpoint), VlmEncoder.load(checkpoint, options))
            source = random.Random(13)
            conversations = [asked(source) for _ in range(5)]
            llm = Llm.load(checkpoint, options, LlmSettings(4, max_context_tokens=256, prefill_chunk_tokens=13))
            answers = drive(llm, [(source.randrange(12), parts.generate(one)) for one in conversations], results=parts.seen)
            expected = [whole_answer(checkpoint, one)[0] for one in conversations]
            part.add(what=kind, ok=_equal(answers, expected), replayed=_replays(llm))


def load(folder: Path, device: str, dtype: str, settings: LlmSettings, **more: Any) -> Llm:
    return Llm.load(resolve(Source(folder=str(folder))), LoadOptions(device=device, dtype=dtype, **more), settings)


def _replays(llm: Llm) -> bool:
    return llm._forward._recorded is not None


def _equal(answers: Sequence[Answer], expected: Sequence[Sequence[int]]) -> bool:
    return [answer.tokens for answer in answers] == [list(tokens) for tokens in expected]


def _generated(folder: Path, device: str, arrivals: Sequence[tuple[int, Generate]]) -> list[list[int]]:
    """The library's own greedy answers, each alone."""
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval().to(device)
    found: list[list[int]] = []
    for _, work in arrivals:
        ids = torch.tensor([work.token_ids], device=device)
        made = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=work.sampling.max_tokens, do_sample=False
        )
        found.append(made[0, ids.shape[1] :].tolist())
    return found

"""Vision encoder, prompt builder and LLM together give what the library's own model gives for each conversation alone."""

import io
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from pipelines.jobs import ImagePart, Message, TextPart
from pipelines.prompts.prompt import PromptBuilder
from stages.checkpoints.checkpoint import Checkpoint, LoadOptions, Source, resolve
from stages.llm.llm import Llm, LlmSettings
from stages.llm.messages import Generate, ImageSpan, Sampling
from stages.vision.messages import EncodeImage
from stages.vision.vlm_encoder import VlmEncoder
from tests.stages.llm.driving import drive
from tests.stages.llm.tiny_vlms import save_llava, save_llava_siglip, save_qwen2_5_vl
from tests.stages.vision.tiny_clip import picture

pytestmark = pytest.mark.models

WORDS = ["a red circle", "what is this?", "größer", "two", "the quick brown fox jumps over", "left of"]


@dataclass(frozen=True, slots=True)
class Asked:
    message: Message
    max_tokens: int


@dataclass(frozen=True, slots=True)
class Parts:
    """A checkpoint and what Triptych loads of it."""

    checkpoint: Checkpoint
    prompts: PromptBuilder
    encoder: VlmEncoder

    def generate(self, asked: Asked, **more: Any) -> Generate:
        prompt = self.prompts.build([asked.message])
        spans = []
        for offset, length, part in prompt.images:
            value = self.encoder.run([self.encoder.prepare(EncodeImage(part.data, 1_000_000))])[0]
            spans.append(ImageSpan(offset, length, digest=str(hash(part.data)), value=value))
        sampling = Sampling(max_tokens=asked.max_tokens, temperature=0.0, logprobs=0)
        return Generate(prompt.token_ids, sampling, tuple(spans), **more)

    def llm(self, settings: LlmSettings) -> Llm:
        return Llm.load(self.checkpoint, LoadOptions(), settings)


@pytest.fixture(
    scope="module", params=[save_llava, save_llava_siglip, save_qwen2_5_vl], ids=["llava", "llava_siglip", "qwen2_5_vl"]
)
def parts(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Parts:
    save: Callable[[Path], Path] = request.param
    checkpoint = resolve(Source(folder=str(save(tmp_path_factory.mktemp("vlm")))))
    return Parts(checkpoint, PromptBuilder.load(checkpoint), VlmEncoder.load(checkpoint, LoadOptions()))


def asked(source: random.Random) -> Asked:
    contents: list[TextPart | ImagePart] = []
    for _ in range(source.randrange(1, 5)):
        if source.random() < 0.5:
            width, height = source.randrange(20, 130), source.randrange(20, 130)
            contents.append(ImagePart(picture(source.randrange(1000), width, height), width, height, "x"))
        contents.append(TextPart(source.choice(WORDS)))
    return Asked(Message("user", tuple(contents)), source.randrange(1, 16))


def whole_answer(checkpoint: Checkpoint, one: Asked) -> tuple[list[int], torch.Tensor]:
    """The library's own pipeline: processor, whole model, `generate`."""
    from transformers import AutoModelForImageTextToText, AutoProcessor

    model = AutoModelForImageTextToText.from_pretrained(checkpoint.folder, dtype=torch.float32).eval()
    processor = AutoProcessor.from_pretrained(checkpoint.folder)
    content = [
        {"type": "text", "text": part.text}
        if isinstance(part, TextPart)
        else {"type": "image", "image": Image.open(io.BytesIO(part.data))}
        for part in one.message.parts
    ]
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": content}],
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        add_generation_prompt=True,
    )
    made = model.generate(
        **inputs, max_new_tokens=one.max_tokens, do_sample=False, return_dict_in_generate=True, output_logits=True
    )
    return made.sequences[0, inputs["input_ids"].shape[1] :].tolist(), torch.stack(made.logits)[:, 0].log_softmax(-1)


@pytest.mark.parametrize(("num_slots", "chunk"), [(4, 13), (3, 400)])
def test_each_conversation_gets_what_the_whole_model_gives_it_alone(parts: Parts, num_slots: int, chunk: int) -> None:
    source = random.Random(chunk)
    conversations = [asked(source) for _ in range(7)]
    llm = parts.llm(LlmSettings(num_slots, max_context_tokens=256, prefill_chunk_tokens=chunk))
    answers = drive(llm, [(source.randrange(12), parts.generate(one)) for one in conversations])
    for one, answer in zip(conversations, answers, strict=True):
        tokens, logprobs = whole_answer(parts.checkpoint, one)
        assert answer.tokens == tokens
        for place, found in enumerate(answer.logprobs):
            assert found.logprob == pytest.approx(float(logprobs[place, found.token_id]), abs=1e-4)


def test_conversations_that_make_way_again_and_again_get_the_same_answers(parts: Parts) -> None:
    source = random.Random(9)
    conversations = [asked(source) for _ in range(5)]
    llm = parts.llm(LlmSettings(2, max_context_tokens=256, prefill_chunk_tokens=19))
    preempted: list[int] = []

    def preempt(step: int, index: int) -> bool:
        makes_way = step < 60 and source.random() < 0.15
        preempted.extend([index] * makes_way)
        return makes_way

    answers = drive(llm, [(source.randrange(12), parts.generate(one)) for one in conversations], preempt=preempt)
    assert len(preempted) > 3
    for one, answer in zip(conversations, answers, strict=True):
        assert answer.tokens == whole_answer(parts.checkpoint, one)[0]


def test_pictures_matter(parts: Parts) -> None:
    """The answers above are not equal because nobody looks."""
    llm = parts.llm(LlmSettings(2, max_context_tokens=256, prefill_chunk_tokens=64))
    one, other = (
        Asked(Message("user", (ImagePart(picture(seed, 60, 60), 60, 60, "x"), TextPart("what is this?"))), 8)
        for seed in (1, 2)
    )
    first, second = drive(llm, [(0, parts.generate(one)), (0, parts.generate(other))])
    assert [found.logprob for found in first.logprobs] != [found.logprob for found in second.logprobs]

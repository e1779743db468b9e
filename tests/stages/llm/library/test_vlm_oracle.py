"""Vision encoder, prompt builder and LLM together give what the library's own model gives for each conversation alone."""

import io
import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from pipelines.jobs import ImagePart, Message, TextPart
from pipelines.prompts.prompt import PromptBuilder
from stages.checkpoints.checkpoint import Checkpoint, LoadOptions, Source, resolve
from stages.contract.recipe import NO_INPUTS, Inputs, InputsMissing, Recipe
from stages.llm.llm import Llm
from stages.llm.messages import Generate, ImageSpan, Sampling
from stages.llm.settings import LlmSettings
from stages.vision.messages import EncodeImage, VisionFeatures
from stages.vision.vlm.encoder import VlmEncoder
from tests.stages.llm.driving import Answer, drive, exported
from tests.stages.llm.library.oracle import PAGED, elsewhere
from tests.stages.llm.tiny_vlms import save_llava, save_llava_siglip, save_qwen2_5_vl
from tests.stages.vision.tiny_clip import image

pytestmark = pytest.mark.models

WORDS = ["a red circle", "what is this?", "größer", "two", "the quick brown fox jumps over", "left of"]


@dataclass(frozen=True, slots=True)
class Asked:
    message: Message
    max_tokens: int


@dataclass(frozen=True, slots=True)
class Parts:
    """A checkpoint and what Triptych loads of it. `seen`: the features of every image that was asked about, by name."""

    checkpoint: Checkpoint
    prompts: PromptBuilder
    encoder: VlmEncoder
    seen: dict[str, VisionFeatures] = field(default_factory=dict)

    def generate(self, asked: Asked, **more: Any) -> Generate:
        prompt = self.prompts.build([asked.message])
        spans = tuple(ImageSpan(placed.offset, placed.length, self.see(placed.image.data)) for placed in prompt.images)
        sampling = Sampling(max_tokens=asked.max_tokens, temperature=0.0, logprobs=0)
        return Generate(prompt.token_ids, sampling, spans, **more)

    def see(self, data: bytes) -> Recipe[VisionFeatures]:
        payload = EncodeImage(data, 1_000_000)
        recipe: Recipe[VisionFeatures] = Recipe(str(hash(data)), "model.vision_encoder", payload)
        if recipe.name not in self.seen:
            self.seen[recipe.name] = self.encoder.run([self.encoder.prepare(payload, NO_INPUTS)])[0]
        return recipe

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
            contents.append(ImagePart(image(source.randrange(1000), width, height), width, height, "x"))
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
    answers = drive(llm, [(source.randrange(12), parts.generate(one)) for one in conversations], results=parts.seen)
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

    arrivals = [(source.randrange(12), parts.generate(one)) for one in conversations]
    answers = drive(llm, arrivals, preempt=preempt, results=parts.seen)
    assert len(preempted) > 3
    for one, answer in zip(conversations, answers, strict=True):
        assert answer.tokens == whole_answer(parts.checkpoint, one)[0]


def test_who_begins_with_pages_that_another_stage_computed_gets_the_same_answers(parts: Parts) -> None:
    source = random.Random(4)
    arrivals = [(source.randrange(12), parts.generate(asked(source))) for _ in range(7)]
    settings = replace(PAGED, max_context_tokens=256)
    cold = drive(parts.llm(settings), arrivals, results=parts.seen)
    warm = elsewhere(parts.llm(settings), parts.llm(settings), arrivals, results=parts.seen)
    assert [answer.tokens for answer in warm] == [answer.tokens for answer in cold]


def test_images_matter(parts: Parts) -> None:
    """The answers above are not equal because nobody looks."""
    llm = parts.llm(LlmSettings(2, max_context_tokens=256, prefill_chunk_tokens=64))
    one, other = (
        Asked(Message("user", (ImagePart(image(seed, 60, 60), 60, 60, "x"), TextPart("what is this?"))), 8) for seed in (1, 2)
    )
    first, second = drive(llm, [(0, parts.generate(one)), (0, parts.generate(other))], results=parts.seen)
    assert [found.logprob for found in first.logprobs] != [found.logprob for found in second.logprobs]


def about_images(*words: str, max_tokens: int = 9) -> Asked:
    """The same two images, with the same text between them, and other words behind."""
    images = [ImagePart(image(seed, width, 60), width, 60, "x") for seed, width in ((1, 90), (2, 60))]
    return Asked(Message("user", (images[0], TextPart("two"), images[1], *map(TextPart, words))), max_tokens)


FIRST, SECOND = about_images("left of"), about_images("what is this?", "größer")


def answer_is_the_whole_models(parts: Parts, one: Asked, answer: Answer) -> None:
    assert answer.tokens == whole_answer(parts.checkpoint, one)[0]


def test_a_second_question_about_the_same_images_is_answered_with_no_features_at_hand(parts: Parts) -> None:
    llm = parts.llm(LlmSettings(2, max_context_tokens=256, prefill_chunk_tokens=64))
    work = parts.generate(SECOND)
    assert {one.name for one in llm.needs(work)} == {span.features.name for span in work.images}
    drive(llm, [(0, parts.generate(FIRST))], results=parts.seen)
    assert set(llm.resident_names()) == {span.features.name for span in work.images}
    (answer,) = drive(llm, [(0, work)], results={})
    assert answer.needed == answer.missed == []
    answer_is_the_whole_models(parts, SECOND, answer)


def test_with_pages_of_another_stage_only_images_beyond_them_are_needed(parts: Parts) -> None:
    """Also where positions depend on the images' grids: the pages tell them."""
    settings = replace(PAGED, max_context_tokens=256)
    first, fresh = parts.llm(settings), parts.llm(settings)
    drive(first, [(0, parts.generate(FIRST))], results=parts.seen)
    pages, work = exported(first), parts.generate(SECOND)
    (answer,) = drive(fresh, [(0, work)], results=parts.seen, pages=pages)
    end = len(answer.brought) * settings.page_tokens
    assert answer.needed == [span.features.name for span in work.images if span.offset + span.length > end]
    assert len(answer.needed) < len(work.images)
    assert answer.missed == []
    assert answer.end is not None
    assert answer.end.cached_tokens == end
    answer_is_the_whole_models(parts, SECOND, answer)


def test_where_the_slot_was_taken_meanwhile_the_second_question_starts_with_what_was_missing(parts: Parts) -> None:
    llm = parts.llm(LlmSettings(1, max_context_tokens=256, prefill_chunk_tokens=64))
    drive(llm, [(0, parts.generate(FIRST))], results=parts.seen)
    work = parts.generate(SECOND)
    early = llm.prepare(work, NO_INPUTS)
    drive(llm, [(0, Generate(tuple(range(10, 50)), Sampling(max_tokens=2)))])
    late = llm.prepare(work, NO_INPUTS)  # by now nobody knows the images' grids
    for prepared in (early, late):
        with pytest.raises(InputsMissing) as missing:
            llm.start(work, prepared)
        names = [one.name for one in missing.value.recipes]
        assert names == [span.features.name for span in work.images]
    assert llm.can_start(work)
    row = llm.start(work, llm.prepare(work, Inputs({name: parts.seen[name] for name in names})))
    while not llm.step([row])[0].done:
        pass
    assert list(row.answer) == whole_answer(parts.checkpoint, SECOND)[0]
    llm.finish(row)


@pytest.mark.parametrize("num_slots", [1, 2])
def test_a_second_question_that_makes_way_goes_on_the_same(parts: Parts, num_slots: int) -> None:
    llm = parts.llm(LlmSettings(num_slots, max_context_tokens=256, prefill_chunk_tokens=64))
    drive(llm, [(0, parts.generate(FIRST))], results=parts.seen)
    second = about_images("what is this?", max_tokens=14)
    other = Generate(tuple(range(10, 50)), Sampling(max_tokens=5, temperature=0.0))
    answer, _ = drive(
        llm,
        [(0, parts.generate(second)), (1, other)],
        preempt=lambda step, index: index == 0 and step in (3, 6),
        results=parts.seen,
    )
    assert not answer.needed
    assert bool(answer.missed) == (num_slots == 1)
    answer_is_the_whole_models(parts, second, answer)

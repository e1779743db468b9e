"""The demo's own vision-language model, through the stages: what its trainers' reference answers, the stages answer."""

import io
import random
from pathlib import Path

import pytest
import torch

from demo.drawing import draw
from demo.measuring.answering import Answerer
from demo.world import DESCRIBE, random_scene
from pipelines.jobs import ImagePart, Message, TextPart
from pipelines.prompts.prompt import PromptBuilder
from stages.checkpoints.checkpoint import LoadOptions, Source, resolve
from stages.contract.recipe import NO_INPUTS, Recipe
from stages.llm.llm import Llm
from stages.llm.messages import Generate, ImageSpan, Sampling
from stages.llm.settings import LlmSettings
from stages.vision.clip.encoder import OpenClipEncoder
from stages.vision.messages import EncodeImage, VisionFeatures
from tests.stages.llm.driving import drive

pytestmark = [pytest.mark.models, pytest.mark.timeout(900)]


def test_the_stages_answer_what_the_reference_answers() -> None:
    clip, projector, smollm2 = (resolve(Source(demo=name)) for name in ("clip", "projector", "smollm2"))
    encoder = OpenClipEncoder.load(clip, projector, LoadOptions())
    prompts = PromptBuilder.load(smollm2, projector)
    llm = Llm.load(smollm2, LoadOptions(), LlmSettings(num_slots=2, max_context_tokens=128, prefill_chunk_tokens=40))
    images = [draw(random_scene(random.Random(seed), held_out=True)) for seed in range(3)]
    questions = [DESCRIBE, "How many shapes are there?", DESCRIBE]
    work: list[tuple[int, Generate]] = []
    results: dict[str, VisionFeatures] = {}
    for image, question in zip(images, questions, strict=True):
        out = io.BytesIO()
        image.save(out, "PNG")
        part = ImagePart(out.getvalue(), *image.size, "x")
        prompt = prompts.build([Message("user", (part, TextPart(question)))])
        (placed,) = prompt.images
        recipe: Recipe[VisionFeatures] = Recipe(str(len(work)), "demo.vision_encoder", EncodeImage(part.data, 1_000_000))
        results[recipe.name] = encoder.run([encoder.prepare(EncodeImage(part.data, 1_000_000), NO_INPUTS)])[0]
        spans = (ImageSpan(placed.offset, placed.length, recipe),)
        work.append((0, Generate(prompt.token_ids, Sampling(max_tokens=28, temperature=0.0), spans)))
    reference = Answerer(Path(str(projector.folder)).parent, torch.device("cpu")).answer(images, questions)
    assert [answer.text.strip() for answer in drive(llm, work, results=results)] == reference

"""Checkpoints in the hub's own formats, through the whole of Triptych in one process, against the library's own pipeline.

The weights are tiny and random; the files, and the code that reads them, are those of a real Stable Diffusion 1.5 or LLaVA.
"""

import base64
import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from pipelines.ingress.request.settings import settings_of
from pipelines.one_process import one_process
from pipelines.settings.config_file import parse
from tests.pipelines.ingress.surface import JsonObject, client_for
from tests.stages.diffusion.painter import Wish, oracle_of
from tests.stages.diffusion.tiny import save_stable_diffusion
from tests.stages.image_files import quarters, save
from tests.stages.llm.tiny_vlms import save_llava

pytestmark = pytest.mark.models


@asynccontextmanager
async def served(models: dict[str, Any]) -> AsyncIterator[httpx.AsyncClient]:
    config = parse({"models": models})
    async with one_process(config) as service, client_for(service, settings_of(config)) as client:
        yield client


async def test_a_stable_diffusion_checkpoint_paints_what_the_librarys_pipeline_paints(tmp_path: Path) -> None:
    folder = save_stable_diffusion(tmp_path / "sd")
    part = {"source": {"folder": str(folder)}, "dtype": "float32"}
    model = {"pipeline": "text_to_image", "text_encoder": part, "denoiser": part, "vae_decoder": part}
    body = {
        "model": "sd",
        "prompt": "a red circle",
        "negative_prompt": "blue",
        "size": "32x32",
        "num_inference_steps": 5,
        "guidance_scale": 4.0,
        "seed": 9,
    }
    async with served({"sd": model}) as client:
        answer = await client.post("/v1/images/generations", json=body)
    assert answer.status_code == 200, answer.text
    painted = np.asarray(Image.open(io.BytesIO(base64.b64decode(answer.json()["data"][0]["b64_json"]))))
    wanted = oracle_of(folder).pixels(Wish("a red circle", "blue", steps=5, guidance=4.0, seed=9))
    assert np.abs(painted.astype(int) - wanted.astype(int)).max() <= 1


LONG = " ".join("abcdefghijklmnopqrstuvwxyz")  # one token a letter, and the tiny encoder reads fourteen at once


@pytest.mark.parametrize(("prompt", "negative"), [(LONG, "blue"), ("a red circle", LONG), (LONG, None)])
async def test_a_prompt_longer_than_clip_reads_at_once_is_painted_from_its_chunks(
    tmp_path: Path, prompt: str, negative: str | None
) -> None:
    folder = save_stable_diffusion(tmp_path / "sd")
    part = {"source": {"folder": str(folder)}, "dtype": "float32"}
    model = {"pipeline": "text_to_image", "text_encoder": part, "denoiser": part, "vae_decoder": part}
    body = {"model": "sd", "prompt": prompt, "negative_prompt": negative, "num_inference_steps": 3, "seed": 9}
    async with served({"sd": model}) as client:
        answer = await client.post("/v1/images/generations", json=body)
        again = await client.post("/v1/images/generations", json=body | {"seed": 10})
        entry = (await client.get("/v1/models/sd")).json()["triptych"]["paint"]
        too_long = await client.post("/v1/images/generations", json=body | {"prompt": "a " * 113})
    assert answer.status_code == 200, answer.text
    painted = np.asarray(Image.open(io.BytesIO(base64.b64decode(answer.json()["data"][0]["b64_json"]))))
    pipeline = oracle_of(folder).pipeline
    chunks = {text: [text[:28], text[28:]] if text == LONG else [text, ""] for text in (prompt, negative or "")}
    embeds = {
        text: torch.cat([pipeline.encode_prompt(one, "cpu", 1, do_classifier_free_guidance=False)[0] for one in two], dim=1)
        for text, two in chunks.items()
    }
    wanted = pipeline(
        prompt_embeds=embeds[prompt],
        negative_prompt_embeds=embeds[negative or ""],
        num_inference_steps=3,
        guidance_scale=7.5,
        generator=torch.Generator("cpu").manual_seed(9),
        output_type="np",
    ).images[0]
    assert np.abs(painted.astype(int) - np.round(wanted * 255).astype(int)).max() <= 1
    assert {stage["cache"] for stage in again.json()["triptych"]["stages"] if stage["stage"] == "sd.text_encoder"} == {
        "memory"
    }
    assert (entry["default_steps"], entry["default_guidance_scale"], entry["max_prompt_tokens"]) == (30, 7.5, 112)
    assert (too_long.status_code, too_long.json()["error"]["param"]) == (400, "prompt")
    assert "the prompt has 113 tokens; this model reads at most 112" in too_long.json()["error"]["message"]


async def edited(client: httpx.AsyncClient, image: bytes, prompt: str = "a red circle", **fields: str) -> JsonObject:
    form = {"model": "sd", "prompt": prompt, "negative_prompt": "blue", "guidance_scale": "4", "seed": "9", **fields}
    answer = await client.post("/v1/images/edits", data=form, files={"image": ("image", image)})
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def painter_that_edits(folder: Path) -> JsonObject:
    part = {"source": {"folder": str(folder)}, "dtype": "float32"}
    parts = ("text_encoder", "denoiser", "vae_decoder", "vae_encoder")
    return {"pipeline": "text_to_image", "default_strength": 0.6, **dict.fromkeys(parts, part)}


@pytest.mark.parametrize(
    ("image", "asked", "strength"),
    [
        (quarters(32, 40), {"strength": "0.5"}, 0.5),  # at its own size
        (quarters(100, 60), {"size": "32x40", "strength": "1"}, 1.0),
        (quarters(32, 40), {"triptych[scheduler]": "euler"}, 0.6),
    ],
)
async def test_a_stable_diffusion_checkpoint_edits_as_the_librarys_pipeline_does(
    tmp_path: Path, image: Image.Image, asked: dict[str, str], strength: float
) -> None:
    from diffusers import EulerDiscreteScheduler, StableDiffusionImg2ImgPipeline

    folder = save_stable_diffusion(tmp_path / "sd")
    async with served({"sd": painter_that_edits(folder)}) as client:
        body = await edited(client, save(image, "PNG"), num_inference_steps="5", **asked)
    painted = np.asarray(Image.open(io.BytesIO(base64.b64decode(body["data"][0]["b64_json"]))))
    pipeline: Any = StableDiffusionImg2ImgPipeline.from_pipe(oracle_of(folder).pipeline)
    if "triptych[scheduler]" in asked:
        pipeline.scheduler = EulerDiscreteScheduler.from_config(pipeline.scheduler.config)
    wanted = pipeline(
        "a red circle",
        image=ImageOps.fit(image, (32, 40), Image.Resampling.LANCZOS),
        strength=strength,
        num_inference_steps=5,
        guidance_scale=4.0,
        negative_prompt="blue",
        generator=torch.Generator("cpu").manual_seed(9),
        output_type="np",
    ).images[0]
    assert painted.shape == (40, 32, 3)
    assert np.abs(painted.astype(int) - np.round(wanted * 255).astype(int)).max() <= 1


async def test_the_second_edit_of_an_image_does_not_run_the_encoder(tmp_path: Path) -> None:
    image = save(quarters(32, 40), "PNG")

    def encoder(body: JsonObject) -> list[JsonObject]:
        return [dict(stage) for stage in body["triptych"]["stages"] if stage["stage"] == "sd.vae_encoder"]

    async with served({"sd": painter_that_edits(save_stable_diffusion(tmp_path / "sd"))}) as client:
        first = await edited(client, image, n="2")
        again = await edited(client, image, "a blue square", strength="0.9")
        smaller = await edited(client, image, size="32x32")
    made, shared = sorted(encoder(first), key=lambda stage: stage["cache"] != "miss")
    assert made["cache"] == "miss"
    assert shared["cache"] in ("joined", "memory")  # each of the two images needs it, and one has it made
    assert [(stage["cache"], stage["run_s"]) for stage in encoder(again)] == [("memory", 0)]
    assert [stage["cache"] for stage in encoder(smaller)] == ["miss"]


async def test_a_painter_without_a_vae_encoder_says_so_in_its_entry_and_in_its_refusal(tmp_path: Path) -> None:
    model = painter_that_edits(save_stable_diffusion(tmp_path / "sd"))
    del model["vae_encoder"]
    async with served({"sd": model}) as client:
        entry = (await client.get("/v1/models/sd")).json()["triptych"]
        files = {"image": ("image", save(quarters(32, 32), "PNG"))}
        answer = await client.post("/v1/images/edits", data={"model": "sd", "prompt": "a boat"}, files=files)
    assert (entry["accepts_images"], entry["paint"]["default_strength"]) == (False, None)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"] == "this model edits no images: it has no vae_encoder"


async def test_a_strength_that_leaves_no_step_is_refused(tmp_path: Path) -> None:
    async with served({"sd": painter_that_edits(save_stable_diffusion(tmp_path / "sd"))}) as client:
        form = {"model": "sd", "prompt": "a boat", "num_inference_steps": "4", "strength": "0.1"}
        files = {"image": ("image", save(quarters(32, 32), "PNG"))}
        answer = await client.post("/v1/images/edits", data=form, files=files)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "strength")


async def test_a_llava_checkpoint_answers_what_the_librarys_generate_answers(tmp_path: Path) -> None:
    folder = save_llava(tmp_path / "llava")
    part = {"loader": "transformers", "source": {"folder": str(folder)}, "dtype": "float32"}
    model = {"pipeline": "image_text", "vision_encoder": part, "llm": part | {"max_context_tokens": 256, "num_slots": 2}}
    image = Image.fromarray(np.random.default_rng(5).integers(0, 255, (40, 50, 3), dtype=np.uint8))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    address = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
    content = [{"type": "image_url", "image_url": {"url": address}}, {"type": "text", "text": "what is this?"}]
    body = {
        "model": "vlm",
        "messages": [{"role": "user", "content": content}],
        "temperature": 0,
        "max_tokens": 12,
        "logprobs": True,
    }
    async with served({"vlm": model}) as client:
        answer = await client.post("/v1/chat/completions", json=body)
    assert answer.status_code == 200, answer.text
    text, num_prompt_tokens = by_the_library(folder, image, "what is this?", 12)
    assert answer.json()["choices"][0]["message"]["content"] == text
    assert answer.json()["usage"]["prompt_tokens"] == num_prompt_tokens


def by_the_library(folder: Path, image: Image.Image, question: str, max_tokens: int) -> tuple[str, int]:
    from transformers import AutoProcessor, LlavaForConditionalGeneration

    processor = AutoProcessor.from_pretrained(folder)
    model = LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}]
    prompt = processor.apply_chat_template(messages, add_generation_prompt=True)
    inputs = processor(text=prompt, images=[image], return_tensors="pt", add_special_tokens=False)
    with torch.inference_mode():
        tokens = model.generate(**inputs, max_new_tokens=max_tokens, do_sample=False)
    num_prompt_tokens = inputs["input_ids"].shape[1]
    return processor.tokenizer.decode(tokens[0, num_prompt_tokens:], skip_special_tokens=True), num_prompt_tokens

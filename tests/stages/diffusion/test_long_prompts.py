"""Prompts that CLIP reads in chunks. What each chunk is to become, the library's own pipeline says: it is given a text as long as
the chunk."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from stages.contract.errors import InvalidRequest, StageFailed
from stages.contract.recipe import NO_INPUTS
from stages.diffusion.families.families import describe
from stages.diffusion.messages import EncodePrompt, PromptEmbedding
from tests.stages.diffusion.painter import Oracle, Painter, Task, Wish, checkpoint_of, oracle_of, paint_rows
from tests.stages.diffusion.tiny import (
    PROMPT_LENGTH,
    save_flux,
    save_stable_diffusion,
    save_stable_diffusion_3,
    save_stable_diffusion_xl,
)

pytestmark = pytest.mark.models

TOLERANCE = 1e-3
TEXT_TOKENS = PROMPT_LENGTH - 2
T5_POSITIONS = 256


def words(count: int, first: int = 0) -> list[str]:
    """Of one token each."""
    return [chr(ord("a") + (first + 7 * index) % 26) for index in range(count)]


def text(count: int) -> str:
    return " ".join(words(count))


def chunk_texts(count: int) -> list[str]:
    found = words(count)
    return [" ".join(found[at : at + TEXT_TOKENS]) for at in range(0, count, TEXT_TOKENS)]


@dataclass(frozen=True, slots=True)
class Bench:
    painter: Painter
    oracle: Oracle

    def library(self, one: str) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """(embeddings, pooled or nothing) of a text that fits."""
        with torch.inference_mode():
            found = self.oracle.pipeline.encode_prompt(
                prompt=one, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False, **self.more
            )
        pooled = found[2] if len(found) > 2 else torch.zeros(1, 0)
        return found[0][0].numpy(), pooled[0].numpy()

    @property
    def more(self) -> dict[str, object]:
        return (
            {"prompt_2": None, "prompt_3": None} if type(self.oracle.pipeline).__name__.startswith("StableDiffusion3") else {}
        )


BUILDERS: dict[str, Callable[[Path], Path]] = {
    "1": save_stable_diffusion,
    "xl": save_stable_diffusion_xl,
    "3 without t5": lambda folder: save_stable_diffusion_3(folder, t5=False),
}


@pytest.fixture(scope="module", params=list(BUILDERS))
def bench(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    folder = BUILDERS[request.param](tmp_path_factory.mktemp("family"))
    return Bench(Painter.load(folder), oracle_of(folder))


def clip_rows(bench: Bench, embeds: NDArray[np.float32]) -> NDArray[np.float32]:
    return embeds[:-T5_POSITIONS] if bench.more else embeds


def expected(bench: Bench, chunks: Sequence[str]) -> NDArray[np.float32]:
    return np.concatenate([clip_rows(bench, bench.library(chunk)[0]) for chunk in chunks])


def pooled_of(result: PromptEmbedding) -> NDArray[np.float32]:
    return np.zeros(0, np.float32) if result.pooled is None else result.pooled


@pytest.mark.parametrize("count", [TEXT_TOKENS, TEXT_TOKENS + 1, 2 * TEXT_TOKENS, 3 * TEXT_TOKENS + 5, 8 * TEXT_TOKENS])
def test_every_chunk_is_what_the_library_makes_of_it_and_pooled_is_the_first(bench: Bench, count: int) -> None:
    result = bench.painter.encode(text(count))[0]
    np.testing.assert_allclose(clip_rows(bench, result.embeds), expected(bench, chunk_texts(count)), atol=1e-5)
    np.testing.assert_allclose(pooled_of(result), bench.library(chunk_texts(count)[0])[1], atol=1e-5)
    assert result.embeds.flags.c_contiguous


def test_prompts_of_any_lengths_share_a_batch(bench: Bench) -> None:
    counts = [3, 40, 14, 15, 100]
    for count, result in zip(counts, bench.painter.encode(*map(text, counts)), strict=True):
        alone = bench.painter.encode(text(count))[0]
        np.testing.assert_allclose(result.embeds, alone.embeds, atol=1e-5)
        np.testing.assert_allclose(pooled_of(result), pooled_of(alone), atol=1e-5)


def test_a_shorter_prompt_is_filled_up_with_the_empty_texts_chunk(bench: Bench) -> None:
    painter = bench.painter
    positions = len(bench.painter.encode(text(40))[0].embeds)
    filled = painter.encode_all(EncodePrompt("a red circle", positions))[0]
    assert len(filled.embeds) == positions
    short, nothing = bench.painter.encode("a red circle", " ")
    wanted = np.concatenate([clip_rows(bench, one.embeds) for one in (short, nothing, nothing)])
    np.testing.assert_allclose(clip_rows(bench, filled.embeds), wanted, atol=1e-5)
    np.testing.assert_allclose(pooled_of(filled), pooled_of(short), atol=1e-5)


def test_a_prompt_of_more_than_eight_chunks_is_refused_with_the_numbers(bench: Bench) -> None:
    most = 8 * TEXT_TOKENS
    with pytest.raises(InvalidRequest, match=f"the prompt has {most + 1} tokens; this model reads at most {most}") as caught:
        bench.painter.text_encoder.prepare(EncodePrompt(text(most + 1)), NO_INPUTS)
    assert caught.value.param == "prompt"


@pytest.mark.parametrize("name", list(BUILDERS))
def test_a_painter_says_how_much_it_reads(tmp_path: Path, name: str) -> None:
    assert describe(checkpoint_of(BUILDERS[name](tmp_path))).max_prompt_tokens == 8 * TEXT_TOKENS


def test_a_prompt_costs_its_chunks(bench: Bench) -> None:
    stage = bench.painter.text_encoder
    short, long = (stage.cost(stage.prepare(EncodePrompt(text(count)), NO_INPUTS)) for count in (3, 40))
    assert long == 3 * short
    assert len({stage.batch_key(stage.prepare(EncodePrompt(text(count)), NO_INPUTS)) for count in (3, 40)}) == 1


@pytest.mark.parametrize("prompt", ["", "a", "a red circle, red", text(TEXT_TOKENS)])
def test_what_fits_is_tokenized_to_the_letter_as_the_library_does(bench: Bench, prompt: str) -> None:
    tokenizer = bench.oracle.pipeline.tokenizer
    library = tokenizer(prompt, padding="max_length", max_length=PROMPT_LENGTH, truncation=True)
    item = bench.painter.text_encoder.prepare(EncodePrompt(prompt), NO_INPUTS)
    assert item["ids"].tolist() == [library.input_ids]
    if "mask" in item and item["mask"].ndim:
        assert item["mask"].tolist() == [library.attention_mask]


def long_work(painter: Painter, prompt: str, negative: str) -> Task:
    """A task whose prompts are filled up to one length, as the pipeline does it."""
    positions = max(len(one.embeds) for one in painter.encode(prompt, negative))
    embeds = painter.encode_all(*(EncodePrompt(one, positions) for one in (prompt, negative)))
    return Task.of(embeds[0], embeds[1], steps=3, guidance_scale=4.0, seed=3)


def painted_by_the_library(oracle: Oracle, task: Task) -> NDArray[np.float32]:
    work = task.payload
    assert work.negative is not None
    prompt, negative = task.inputs[work.prompt], task.inputs[work.negative]
    given = {"prompt_embeds": prompt.embeds, "negative_prompt_embeds": negative.embeds}
    if prompt.pooled is not None and negative.pooled is not None:
        given |= {"pooled_prompt_embeds": prompt.pooled, "negative_pooled_prompt_embeds": negative.pooled}
    found: NDArray[np.float32] = oracle.pipeline(
        **{name: torch.from_numpy(array)[None] for name, array in given.items()},
        num_inference_steps=work.steps,
        guidance_scale=work.guidance_scale,
        generator=torch.Generator("cpu").manual_seed(work.seed),
        width=work.width,
        height=work.height,
        output_type="latent",
    ).images[0]
    return np.asarray(found)


@pytest.mark.parametrize(("prompt", "negative"), [(40, 2), (2, 40), (40, 0), (15, 15)])
def test_latents_of_long_prompts_are_the_librarys_alone_and_beside_others(bench: Bench, prompt: int, negative: int) -> None:
    painter = bench.painter
    work = long_work(painter, text(prompt), text(negative))
    beside = {index: painter.start(one) for index, one in ((1, work), (2, Wish()))}
    assert painter.denoiser.batch_key(beside[1]) != painter.denoiser.batch_key(beside[2])
    alone = paint_rows(painter.denoiser, {0: painter.start(work)})[0]
    np.testing.assert_allclose(alone, painted_by_the_library(bench.oracle, work), atol=TOLERANCE)
    twice = {0: painter.start(work), 1: beside[1]}
    np.testing.assert_allclose(paint_rows(painter.denoiser, twice)[1], alone, atol=TOLERANCE)


def test_prompts_of_two_lengths_in_one_task_fail_alone(bench: Bench) -> None:
    prompt, negative = bench.painter.encode(text(40), "blue")
    with pytest.raises(StageFailed, match="prompts are not of one shape"):
        bench.painter.prepare(Task.of(prompt, negative))


def test_xls_empty_negative_prompt_is_zeros_however_long(tmp_path: Path) -> None:
    painter = Painter.load(save_stable_diffusion_xl(tmp_path))
    filled = painter.encode_all(EncodePrompt("", 3 * PROMPT_LENGTH), EncodePrompt(text(40)))
    assert [len(result.embeds) for result in filled] == [3 * PROMPT_LENGTH] * 2
    assert not filled[0].embeds.any()
    assert not pooled_of(filled[0]).any()
    assert filled[1].embeds.any()


def test_3_with_t5_has_clips_chunks_before_t5s_tokens(tmp_path: Path) -> None:
    folder = save_stable_diffusion_3(tmp_path)
    bench = Bench(Painter.load(folder), oracle_of(folder))
    result = bench.painter.encode(text(40))[0].embeds
    np.testing.assert_allclose(result[:-T5_POSITIONS], expected(bench, chunk_texts(40)), atol=1e-5)
    np.testing.assert_allclose(result[-T5_POSITIONS:], bench.library(text(40))[0][-T5_POSITIONS:], atol=1e-5)
    with pytest.raises(InvalidRequest, match="this model reads at most 255"):
        bench.painter.text_encoder.prepare(EncodePrompt("b" * 300), NO_INPUTS)


def test_a_t5_that_reads_more_than_eight_chunks_has_clip_cut(tmp_path: Path) -> None:
    painter = Painter.load(save_stable_diffusion_3(tmp_path))
    ids = painter.text_encoder.prepare(EncodePrompt(text(8 * TEXT_TOKENS + 9)), NO_INPUTS)["ids"]
    assert ids.shape == (8, PROMPT_LENGTH)


def test_flux_reads_no_chunks_since_its_clip_gives_the_pooled_result_only(tmp_path: Path) -> None:
    folder = save_flux(tmp_path)
    painter, oracle = Painter.load(folder), oracle_of(folder)
    wish = Wish(prompt=text(40), negative=None, steps=2)
    with torch.inference_mode():
        embeds, pooled, _ = oracle.pipeline.encode_prompt(prompt=wish.prompt, prompt_2=None, device="cpu")
    result = painter.encode(wish.prompt)[0]
    np.testing.assert_allclose(result.embeds, embeds[0].numpy(), atol=1e-5)
    np.testing.assert_allclose(pooled_of(result), pooled[0].numpy(), atol=1e-5)

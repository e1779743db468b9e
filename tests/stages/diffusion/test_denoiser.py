"""What the denoiser does around the mathematics: events, previews, batch keys, costs, failures, precision."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stages.checkpoints.checkpoint import LoadOptions
from stages.contract.errors import StageFailed
from stages.contract.stage import Share, Stepped
from stages.diffusion.denoise_row import DenoiseRow
from stages.diffusion.denoiser import Denoiser
from stages.diffusion.messages import DenoiseEnd, DenoisePreview, DenoiseProgress, PromptEmbedding
from tests.stages.diffusion.painter import Painter, Task, Wish, paint_rows
from tests.stages.diffusion.sampling.test_samplers import NOISE_SAMPLERS

pytestmark = pytest.mark.models


def run_alone(denoiser: Denoiser, row: DenoiseRow) -> list[Stepped]:
    steps: list[Stepped] = []
    while not steps or not steps[-1].done:
        steps += denoiser.step([row])
        if steps[-1].error is not None:
            return steps
    return steps


def events_of(steps: Sequence[Stepped], kind: type[Any]) -> list[Any]:
    return [event for stepped in steps for event in stepped.events if isinstance(event, kind)]


@pytest.mark.parametrize(("sampler", "calls"), [("ddim", 4), ("heun", 7), ("pndm", 5)])
def test_every_model_call_is_reported_and_the_last_ends(sd_painter: Painter, sampler: str, calls: int) -> None:
    steps = run_alone(sd_painter.denoiser, sd_painter.start(Wish(sampler=sampler)))
    assert events_of(steps, DenoiseProgress) == [DenoiseProgress(call, calls) for call in range(1, calls + 1)]
    assert [stepped.done for stepped in steps] == [False] * (calls - 1) + [True]
    assert isinstance(steps[-1].events[-1], DenoiseEnd)


@pytest.mark.parametrize("sampler", NOISE_SAMPLERS)
def test_previews_change_nothing_and_come_closer_to_the_end(sd_painter: Painter, sampler: str) -> None:
    wish = Wish(sampler=sampler, steps=8, previews=(2, 4, 6, 8), guidance=1.0)
    steps = run_alone(sd_painter.denoiser, sd_painter.start(wish))
    previews = [event.latents.latents for event in events_of(steps, DenoisePreview)]
    end = events_of(steps, DenoiseEnd)[0].latents.latents
    np.testing.assert_array_equal(end, sd_painter.latents(Wish(sampler=sampler, steps=8, guidance=1.0)))
    distances = [float(np.abs(preview - end).mean()) for preview in previews]
    assert len(distances) == 4
    assert distances[-1] < distances[0]
    assert distances[-1] < 0.2 * float(np.abs(end).mean())


def test_a_preview_is_the_image_where_the_model_is_right(sd_painter: Painter) -> None:
    """A model that knows the image: every preview of every sampler is that image."""
    image = torch.linspace(-1, 1, 4 * 8 * 8).view(1, 4, 8, 8)
    for sampler in NOISE_SAMPLERS:
        row = sd_painter.start(Wish(sampler=sampler, steps=5, negative=None))
        schedule = row.schedule
        for call in range(schedule.num_calls):
            alpha, sigma = schedule.noise_level(call)
            noise = (row.latents - alpha * image) / sigma
            torch.testing.assert_close(schedule.estimate(noise, call, row.latents), image, atol=1e-3, rtol=1e-3)
            row.advance(noise)
        np.testing.assert_allclose(row.latents.numpy(), image.numpy(), atol=0.1)


def test_rows_share_a_step_when_their_latents_have_the_same_shape(sd_painter: Painter) -> None:
    denoiser = sd_painter.denoiser
    same = [Wish(), Wish(negative=None, steps=9, sampler="heun", seed=5), Wish(prompt="blue", guidance=9.0)]
    assert len({denoiser.batch_key(sd_painter.start(wish)) for wish in same}) == 1
    sizes = [Wish(size=size) for size in ((32, 32), (64, 32), (32, 64))]
    assert len({denoiser.batch_key(sd_painter.start(wish)) for wish in sizes}) == 3


def test_a_row_costs_its_latent_positions_twice_with_guidance(sd_painter: Painter) -> None:
    cost = [sd_painter.denoiser.cost(sd_painter.start(wish)) for wish in (Wish(), Wish(negative=None), Wish(guidance=1.0))]
    assert cost == [128.0, 64.0, 64.0]


class CountingBackbone:
    """The real one, with the number of model rows of every forward pass."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.rows: list[int] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def predict(self, latents: torch.Tensor, *rest: Any) -> torch.Tensor:
        self.rows.append(len(latents))
        output: torch.Tensor = self._inner.predict(latents, *rest)
        return output


@pytest.fixture
def counted(sd_painter: Painter, monkeypatch: pytest.MonkeyPatch) -> CountingBackbone:
    counting = CountingBackbone(sd_painter.denoiser._backbone)
    monkeypatch.setattr(sd_painter.denoiser, "_backbone", counting)
    return counting


def test_a_step_is_one_forward_pass_with_a_row_or_two_for_each_request(sd_painter: Painter, counted: CountingBackbone) -> None:
    wishes = [Wish(steps=2), Wish(negative=None, steps=1), Wish(guidance=0.5, steps=2), Wish(sampler="heun", steps=2)]
    paint_rows(sd_painter.denoiser, {index: sd_painter.start(wish) for index, wish in enumerate(wishes)})
    assert counted.rows == [6, 5, 2]


def test_a_row_whose_sampler_fails_fails_alone(sd_painter: Painter) -> None:
    good, bad = sd_painter.start(Wish(steps=2)), sd_painter.start(Wish(steps=2, seed=2))
    bad.schedule.scheduler.num_inference_steps = None  # the library's scheduler refuses to step
    stepped = sd_painter.denoiser.step([bad, good])
    assert isinstance(stepped[0].error, StageFailed)
    assert stepped[1].error is None
    alone = sd_painter.latents(Wish(steps=2))
    np.testing.assert_allclose(paint_rows(sd_painter.denoiser, {0: good})[0], alone, atol=1e-4)


def test_a_result_that_is_not_a_number_is_a_failure_not_a_black_image(sd_painter: Painter) -> None:
    row = sd_painter.start(Wish(steps=1))
    row.latents = row.latents * float("nan")
    error = sd_painter.denoiser.step([row])[0].error
    assert isinstance(error, StageFailed)
    assert "not numbers" in error.message


def test_embeddings_of_another_model_are_refused(sd_painter: Painter) -> None:
    foreign = PromptEmbedding(np.zeros((16, 48), np.float32))
    with pytest.raises(StageFailed, match="the text encoder is another model's"):
        sd_painter.prepare(Task.of(foreign))


def test_a_finished_row_holds_nothing_and_may_be_finished_before_a_step(sd_painter: Painter) -> None:
    row = sd_painter.start(Wish())
    sd_painter.denoiser.finish(row)
    assert row.latents.numel() == 0
    assert not row.condition
    sd_painter.denoiser.finish(row)


def test_read_only_embeddings_are_taken(sd_painter: Painter) -> None:
    embedding = PromptEmbedding(sd_painter.encode("a red circle")[0].embeds.copy()).freeze()
    row = sd_painter.start(Task.of(embedding, embedding, steps=1))
    assert sd_painter.denoiser.step([row])[0].done


@pytest.mark.cpu
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_small_dtype_rounds_the_model_and_keeps_latents_in_float32(sd_folder: Path, sd_painter: Painter, dtype: str) -> None:
    painter = Painter.load(sd_folder, LoadOptions(dtype=dtype))
    wish = Wish(steps=3)
    row = painter.start(wish)
    assert row.latents.dtype is torch.float32
    assert row.condition["encoder_hidden_states"].dtype is getattr(torch, dtype)
    latents = paint_rows(painter.denoiser, {0: row})[0]
    assert latents.dtype == np.float32
    expected = sd_painter.latents(wish)
    assert 0 < np.abs(latents - expected).max() < 0.1 * np.abs(expected).max()
    pixels = painter.pixels([latents])[0].astype(int) - sd_painter.pixels([expected])[0].astype(int)
    assert np.abs(pixels).mean() < 4


def test_a_step_that_runs_out_of_memory_has_changed_no_row(sd_painter: Painter, monkeypatch: pytest.MonkeyPatch) -> None:
    wishes = [
        Wish(steps=3, sampler="euler_a"),
        Wish(steps=4, sampler="dpmpp_2m", seed=2),
        Wish(steps=3, negative=None, seed=3),
    ]
    rows = [sd_painter.start(wish) for wish in wishes]
    inner, too_many = sd_painter.denoiser._backbone, 4

    class Cramped(CountingBackbone):
        def predict(self, latents: torch.Tensor, *rest: Any) -> torch.Tensor:
            if len(latents) > too_many:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().predict(latents, *rest)

    monkeypatch.setattr(sd_painter.denoiser, "_backbone", Cramped(inner))
    for _ in range(2):
        with pytest.raises(torch.OutOfMemoryError):
            sd_painter.denoiser.step(rows)
    painted = [paint_rows(sd_painter.denoiser, {0: row})[0] for row in rows]
    for wish, latents in zip(wishes, painted, strict=True):
        np.testing.assert_array_equal(latents, sd_painter.latents(wish))


def test_a_prepared_requests_share_is_its_rows(sd_painter: Painter) -> None:
    wishes = [Wish(), Wish(size=(64, 32)), Wish(size=(32, 64)), Wish(negative=None), Wish(guidance=1.0), Wish(size=(64, 32))]
    for task in map(sd_painter.task, wishes):
        prepared = sd_painter.prepare(task)
        row = sd_painter.denoiser.start(task.payload, prepared)
        assert sd_painter.denoiser.share(prepared) == Share(sd_painter.denoiser.batch_key(row), sd_painter.denoiser.cost(row))


def test_requests_weigh_what_their_rows_cost(sd_painter: Painter) -> None:
    wishes = [Wish(), Wish(seed=2), Wish(size=(64, 32)), Wish(negative=None), Wish(guidance=1.0)]
    weighed = [sd_painter.denoiser.weigh(sd_painter.task(wish).payload) for wish in wishes]
    assert weighed == [sd_painter.denoiser.cost(sd_painter.start(wish)) for wish in wishes]
    assert len(set(weighed)) > 2


def test_several_rows_may_be_made_of_one_prepared_request(sd_painter: Painter) -> None:
    for sampler in NOISE_SAMPLERS:
        task = sd_painter.task(Wish(sampler=sampler))
        prepared = sd_painter.prepare(task)
        painted = [
            paint_rows(sd_painter.denoiser, {0: sd_painter.denoiser.start(task.payload, prepared)})[0] for _ in range(2)
        ]
        np.testing.assert_array_equal(painted[0], painted[1])


def test_requests_may_be_prepared_by_many_threads_at_once(sd_painter: Painter) -> None:
    tasks = [sd_painter.task(Wish(seed=seed, sampler=sampler)) for seed, sampler in enumerate(NOISE_SAMPLERS)]
    with ThreadPoolExecutor(8) as pool:
        prepared = list(pool.map(sd_painter.prepare, tasks))
    rows = {
        key: sd_painter.denoiser.start(task.payload, one) for key, (task, one) in enumerate(zip(tasks, prepared, strict=True))
    }
    expected = paint_rows(sd_painter.denoiser, {key: sd_painter.start(task) for key, task in enumerate(tasks)})
    for key, latents in paint_rows(sd_painter.denoiser, rows).items():
        np.testing.assert_array_equal(latents, expected[key])


def test_what_is_prepared_lies_on_the_host(sd_painter: Painter, monkeypatch: pytest.MonkeyPatch) -> None:
    """A backbone on a device that computes nothing: only `start` reaches for it."""

    class Elsewhere(CountingBackbone):
        device = torch.device("meta")

    monkeypatch.setattr(sd_painter.denoiser, "_backbone", Elsewhere(sd_painter.denoiser._backbone))
    task = sd_painter.task(Wish())
    prepared = sd_painter.prepare(task)
    assert {value.device.type for value in (prepared.latents, *prepared.condition.values())} == {"cpu"}
    row = sd_painter.denoiser.start(task.payload, prepared)
    assert {value.device.type for value in (row.latents, *row.condition.values())} == {"meta"}

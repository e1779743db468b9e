"""Every sampler against the library's pipeline with the scheduler that stands behind it."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch

from stages.contract.errors import InvalidRequest
from stages.diffusion.checkpoint.checkpoint_parts import open_folder
from stages.diffusion.families.families import describe, family_of
from stages.diffusion.sampling.samplers import SamplerMenu, Timing
from stages.diffusion.sampling.schedule import build_schedule
from tests.stages.diffusion.painter import Oracle, Painter, Wish, checkpoint_of, oracle_of, paint_rows
from tests.stages.diffusion.tiny import diffusion_scheduler, save_stable_diffusion

pytestmark = pytest.mark.models

TOLERANCE = 1e-3
NOISE_SAMPLERS = ["ddim", "ddpm", "pndm", "lms", "euler", "euler_a", "heun"]
NOISE_SAMPLERS += ["dpmpp_2m", "dpmpp_2m_karras", "dpmpp_2m_sde", "dpmpp_2s", "deis", "unipc"]
FLOW_SAMPLERS = ["dpmpp_2m", "dpmpp_2m_sde", "dpmpp_2s", "deis", "unipc", "flow_euler", "flow_heun"]


def menu_of_folder(folder: Path) -> SamplerMenu:
    opened = open_folder(checkpoint_of(folder))
    return family_of(opened).samplers(opened)


@contextmanager
def with_sampler(oracle: Oracle, menu: SamplerMenu, name: str | None) -> Iterator[Oracle]:
    """The pipeline with another scheduler, as the library's users change it."""
    own = oracle.pipeline.scheduler
    sampler = menu.choose(name)
    try:
        if sampler != menu.default:
            kind: Any = getattr(diffusers, sampler.scheduler)
            if sampler.scheduler.startswith("FlowMatch"):  # which the pipeline doesn't expect: it asks for one thing more
                kind = type(sampler.scheduler, (kind,), {"init_noise_sigma": 1.0})
                oracle.pipeline.scheduler = kind(shift=own.config["flow_shift"])
            else:
                oracle.pipeline.scheduler = kind.from_config(own.config, **sampler.overrides)
        yield oracle
    finally:
        oracle.pipeline.scheduler = own


@pytest.fixture(scope="module")
def flow_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    scheduler = diffusers.DPMSolverMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=1.5)
    return save_stable_diffusion(tmp_path_factory.mktemp("flow"), scheduler)


@pytest.fixture(scope="module")
def velocity_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_stable_diffusion(tmp_path_factory.mktemp("velocity"), diffusion_scheduler(prediction_type="v_prediction"))


def test_the_table_holds_what_this_test_compares(sd_folder: Path, flow_folder: Path) -> None:
    assert describe(checkpoint_of(sd_folder)).samplers == tuple(NOISE_SAMPLERS)
    assert describe(checkpoint_of(flow_folder)).samplers == tuple(FLOW_SAMPLERS)


@pytest.mark.parametrize("name", NOISE_SAMPLERS)
def test_a_sampler_paints_what_the_librarys_paints(sd_folder: Path, sd_painter: Painter, sd_oracle: Oracle, name: str) -> None:
    wish = Wish(sampler=name, steps=5)
    with with_sampler(sd_oracle, menu_of_folder(sd_folder), name) as oracle:
        np.testing.assert_allclose(sd_painter.latents(wish), oracle.latents(wish), atol=TOLERANCE)


@pytest.mark.parametrize("name", FLOW_SAMPLERS)
def test_a_flow_sampler_paints_what_the_librarys_paints(flow_folder: Path, name: str) -> None:
    wish = Wish(sampler=name, steps=5)
    with with_sampler(oracle_of(flow_folder), menu_of_folder(flow_folder), name) as oracle:
        np.testing.assert_allclose(Painter.load(flow_folder).latents(wish), oracle.latents(wish), atol=TOLERANCE)


@pytest.mark.parametrize("name", ["ddim", "euler", "euler_a", "heun", "lms", "pndm", "unipc", "dpmpp_2m"])
def test_a_velocity_model_paints_what_the_librarys_paints(velocity_folder: Path, name: str) -> None:
    wish = Wish(sampler=name, steps=3)
    with with_sampler(oracle_of(velocity_folder), menu_of_folder(velocity_folder), name) as oracle:
        np.testing.assert_allclose(Painter.load(velocity_folder).latents(wish), oracle.latents(wish), atol=TOLERANCE)


def test_all_samplers_share_every_step(sd_folder: Path, sd_painter: Painter, sd_oracle: Oracle) -> None:
    wishes = {
        index: Wish(
            sampler=name, steps=2 + index % 4, seed=index, guidance=2.0 + index % 3, negative=None if index % 5 == 4 else ""
        )
        for index, name in enumerate(NOISE_SAMPLERS)
    }
    finished = paint_rows(sd_painter.denoiser, {key: sd_painter.start(wish) for key, wish in wishes.items()})
    for key, wish in wishes.items():
        with with_sampler(sd_oracle, menu_of_folder(sd_folder), wish.sampler) as oracle:
            np.testing.assert_allclose(finished[key], oracle.latents(wish), atol=TOLERANCE)


def test_samplers_differ(sd_painter: Painter) -> None:
    few = ["ddim", "euler_a", "heun", "unipc"]
    images = [sd_painter.latents(Wish(sampler=name, steps=3)) for name in few]
    for index, image in enumerate(images):
        assert all(np.abs(image - other).max() > 1e-3 for other in images[index + 1 :])


@pytest.mark.parametrize("folder", ["sd_folder", "flow_folder"])
def test_every_allowed_sampler_takes_every_allowed_number_of_steps(folder: str, request: pytest.FixtureRequest) -> None:
    menu = menu_of_folder(request.getfixturevalue(folder))
    for sampler in menu.allowed:
        for steps in (1, 2, 3, 4, 14, 15, menu.max_steps):
            generator = torch.Generator().manual_seed(0)
            schedule = build_schedule(menu, sampler, steps, Timing())
            latents = torch.ones(1, 1, 2, 2)
            for call in range(schedule.num_calls):
                schedule.model_input(latents, call)
                latents = schedule.step(torch.full_like(latents, 0.1), call, latents, generator)
            assert latents.isfinite().all(), f"{sampler.name} in {steps} steps"


def test_a_second_order_sampler_reports_its_calls(sd_painter: Painter) -> None:
    assert sd_painter.start(Wish(sampler="heun", steps=5)).schedule.num_calls == 9
    assert sd_painter.start(Wish(sampler="pndm", steps=5)).schedule.num_calls == 6


def test_an_unknown_sampler_is_refused_with_what_is_allowed(sd_painter: Painter) -> None:
    with pytest.raises(InvalidRequest, match=r"sampler 'magic' is not a sampler; this model takes ddim, ddpm, pndm") as caught:
        sd_painter.start(Wish(sampler="magic"))
    assert caught.value.param == "sampler"


def test_a_sampler_for_other_models_is_refused_with_the_reason(sd_painter: Painter) -> None:
    with pytest.raises(InvalidRequest, match="'flow_euler' cannot sample a model with prediction type 'epsilon'"):
        sd_painter.start(Wish(sampler="flow_euler"))


def test_the_checkpoints_own_scheduler_keeps_its_own_settings(tmp_path: Path) -> None:
    own = diffusers.DPMSolverMultistepScheduler(solver_order=3, timestep_spacing="trailing", final_sigmas_type="sigma_min")
    folder = save_stable_diffusion(tmp_path, own)
    shutil.rmtree(folder / "words")
    wish = Wish(steps=6, guidance=5.0)
    np.testing.assert_allclose(Painter.load(folder).latents(wish), oracle_of(folder).latents(wish), atol=TOLERANCE)

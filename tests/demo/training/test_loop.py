"""A training keeps to its budget, and resumes where it was killed."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from demo.training import loop
from demo.training.loop import Budget, Loop, Recipe

RECIPE = Recipe(learning_rate=0.1, batch_size=4, averaging=0.9)


@pytest.fixture(autouse=True)
def _work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "WORK", tmp_path)


def fit(model: nn.Linear, images: int) -> Loop:
    training = Loop("line", model, RECIPE, Budget(minutes=10, images=images))
    inputs = torch.arange(4.0)[:, None]

    def step(_: int) -> dict[str, Tensor]:
        return {"loss": (model(inputs) - 3 * inputs).square().mean()}

    training.run(step)
    return training


def test_it_stops_when_the_images_are_seen() -> None:
    assert fit(nn.Linear(1, 1), images=40).num_steps == 10


def test_it_learns_and_hands_back_averaged_weights() -> None:
    torch.manual_seed(0)
    model = nn.Linear(1, 1)
    trained = fit(model, images=2000).trained()
    assert isinstance(trained, nn.Linear)
    assert trained.weight.item() == pytest.approx(3, abs=0.3)
    assert not trained.training


def test_a_finished_training_resumes_as_finished() -> None:
    model = nn.Linear(1, 1)
    fit(model, images=40)
    again = nn.Linear(1, 1)
    resumed = fit(again, images=40)
    assert resumed.num_steps == 10
    assert torch.equal(model.weight, again.weight)


def test_a_larger_budget_goes_on_from_the_checkpoint() -> None:
    fit(nn.Linear(1, 1), images=40)
    resumed = Loop("line", nn.Linear(1, 1), RECIPE, Budget(minutes=10, images=80))
    assert resumed.num_steps == 10
    assert resumed.progress == pytest.approx(0.5)

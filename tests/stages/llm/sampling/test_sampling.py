"""Sampling tokens: each rule of OpenAI's sampling parameters, and independence of what shares the batch."""

import math
from collections import Counter
from typing import Any

import pytest
import torch

import stages.llm.sampling.sampling
from stages.llm.messages import Sampling
from stages.llm.sampling.sampling import RowSampler, decide, sample

pytestmark = pytest.mark.models


def sampling(**settings: object) -> RowSampler:
    return RowSampler(Sampling(max_tokens=10, **settings))  # type: ignore[arg-type]


def logits_of(probabilities: list[float]) -> torch.Tensor:
    return torch.tensor([probabilities]).log()


def frequencies(logits: torch.Tensor, count: int = 4000, **settings: object) -> dict[int, float]:
    sampler = sampling(seed=7, **settings)
    found = Counter(sample(logits, [sampler])[0].token for _ in range(count))
    return {token: number / count for token, number in found.items()}


def test_temperature_zero_takes_the_likeliest() -> None:
    assert sample(logits_of([0.2, 0.5, 0.3]), [sampling(temperature=0.0)])[0].token == 1


def test_what_can_be_done_meanwhile_is_done_once_a_device_has_its_work() -> None:
    logits, sampler, done = logits_of([0.2, 0.5, 0.3]), sampling(temperature=0.0), []
    assert sample(logits, [sampler], lambda: done.append(sampler.position))[0].token == 1
    assert done == [0]  # before anything was read back


def test_tokens_come_as_often_as_they_are_likely() -> None:
    found = frequencies(logits_of([0.2, 0.5, 0.3]))
    assert found == pytest.approx({0: 0.2, 1: 0.5, 2: 0.3}, abs=0.03)


def test_temperature_sharpens_by_its_own_formula() -> None:
    weights = [p**2 for p in (0.2, 0.5, 0.3)]
    found = frequencies(logits_of([0.2, 0.5, 0.3]), temperature=0.5)
    assert found == pytest.approx({token: weight / sum(weights) for token, weight in enumerate(weights)}, abs=0.03)


def test_a_temperature_close_to_zero_is_greedy_and_finite() -> None:
    logits = torch.randn(1, 300, generator=torch.Generator().manual_seed(0)) * 50
    assert sample(logits, [sampling(temperature=1e-6)])[0].token == int(logits.argmax())


def test_top_p_keeps_the_fewest_tokens_that_reach_it() -> None:
    found = frequencies(logits_of([0.1, 0.5, 0.4]), top_p=0.6)
    assert found == pytest.approx({1: 5 / 9, 2: 4 / 9}, abs=0.03)


def test_a_tiny_top_p_is_greedy() -> None:
    assert set(frequencies(logits_of([0.3, 0.3001, 0.3999]), count=200, top_p=1e-9)) == {2}


def test_top_p_over_a_flat_vocabulary_looks_beyond_the_first_candidates() -> None:
    vocabulary = 1024
    sampler = sampling(seed=1, top_p=0.9)
    found = {sample(torch.zeros(1, vocabulary), [sampler])[0].token for _ in range(2000)}
    assert len(found) > 512


def test_a_row_draws_the_same_alone_and_among_others() -> None:
    generator = torch.Generator().manual_seed(3)
    steps = [torch.randn(6, 500, generator=generator) * 2 for _ in range(30)]
    settings: list[dict[str, Any]] = [
        {"temperature": 0.0},
        {"seed": 5},
        {"seed": 5, "top_p": 0.5},
        {"seed": 9, "temperature": 0.7, "frequency_penalty": 1.0},
        {"seed": 2, "presence_penalty": 1.5},
        {"seed": 2, "logit_bias": {7: 4.0}, "logprobs": 2},
    ]
    together = [sampling(**one) for one in settings]
    crowd = [[found.token for found in sample(step, together)] for step in steps]
    for row, one in enumerate(settings):
        alone = sampling(**one)
        assert [sample(step[row : row + 1], [alone])[0].token for step in steps] == [line[row] for line in crowd]


MIXES: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0.0},
    "plain": {},
    "nucleus": {"top_p": 0.9, "temperature": 0.7},
    "everything": {
        "temperature": 1.3,
        "top_p": 0.8,
        "top_k": 40,
        "min_p": 0.01,
        "frequency_penalty": 0.5,
        "presence_penalty": 0.5,
        "repetition_penalty": 1.1,
        "logit_bias": {3: 2.0},
        "logprobs": 5,
    },
    "logprobs": {"temperature": 0.0, "logprobs": 20},
}


@pytest.mark.parametrize("mixes", [*[[name] for name in MIXES], [*MIXES]], ids=[*MIXES, "all of them"])
def test_what_is_sampled_is_decided_on_the_device_without_reading_anything_back(mixes: list[str]) -> None:
    """A meta tensor has no content: whatever read one, or depended on how much there is of something, would fail."""
    samplers = [RowSampler(Sampling(max_tokens=10, seed=1, **MIXES[name]), prompt=[1, 2]) for name in mixes]
    for sampler in samplers:
        sampler.accept(7)
    decided = decide(torch.empty(len(samplers), 1000, device="meta", dtype=torch.bfloat16), samplers)
    assert decided.device.type == "meta"
    with pytest.raises(RuntimeError, match="meta"):
        decided.sum().item()


def test_what_was_decided_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    reads = []

    class Counted(torch.Tensor):
        def tolist(self) -> Any:
            reads.append(self.shape)
            return super().tolist()

    monkeypatch.setattr(stages.llm.sampling.sampling, "decide", lambda *given: decide(*given).as_subclass(Counted))
    samplers = [sampling(seed=1, **mix) for mix in MIXES.values()]
    assert len(sample(torch.randn(len(MIXES), 1000), samplers)) == len(MIXES)
    assert reads == [(len(MIXES), 3 + 2 * 20)]


def test_a_draw_depends_on_its_position_not_on_the_steps_before() -> None:
    generator = torch.Generator().manual_seed(1)
    steps = torch.randn(30, 1, 500, generator=generator)
    first = sampling(seed=4, top_p=0.9)
    tokens = [sample(step, [first])[0].token for step in steps]
    later = sampling(seed=4, top_p=0.9)
    later.position = 20
    assert [sample(step, [later])[0].token for step in steps[20:]] == tokens[20:]


@pytest.mark.parametrize("top_p", [1.0, 0.9])
def test_a_little_noise_on_the_logits_seldom_changes_a_seeded_draw(top_p: float) -> None:
    """A batch of another size makes such noise. Of draws by the cumulated distribution one in seven changes."""
    generator = torch.Generator().manual_seed(2)
    rows = 2000
    logits = torch.randn(rows, 1000, generator=generator) * 3
    noisy = logits + 0.02 * torch.randn(rows, 1000, generator=generator)
    settings = [{"seed": seed, "top_p": top_p} for seed in range(rows)]
    runs = [[found.token for found in sample(these, [sampling(**one) for one in settings])] for these in (logits, noisy)]
    changed = sum(ours != theirs for ours, theirs in zip(*runs, strict=True)) / rows
    assert changed < 0.04


def test_a_request_without_a_seed_gets_one_of_its_own() -> None:
    assert len({sampling().seed for _ in range(20)}) == 20


def test_equal_seeds_repeat_and_others_differ() -> None:
    logits = torch.zeros(1, 1000)
    runs = [
        [sample(logits, [sampler])[0].token for _ in range(20)]
        for sampler in (sampling(seed=1), sampling(seed=1), sampling(seed=2))
    ]
    assert runs[0] == runs[1] != runs[2]


def test_logit_bias_forbids_and_forces() -> None:
    logits = logits_of([0.2, 0.5, 0.3])
    assert sample(logits, [sampling(temperature=0.0, logit_bias={1: -100})])[0].token == 2
    assert sample(logits, [sampling(temperature=0.0, logit_bias={0: 100})])[0].token == 0


def test_penalties_grow_with_what_was_generated() -> None:
    logits = torch.tensor([[1.0, 0.5, 0.0]])
    sampler = sampling(temperature=0.0, frequency_penalty=0.3)
    assert [sample(logits, [sampler])[0].token for _ in range(4)] == [0, 0, 1, 0]
    sampler = sampling(temperature=0.0, presence_penalty=2.0)
    assert [sample(logits, [sampler])[0].token for _ in range(4)] == [0, 1, 2, 0]


def test_half_precision_logits_take_penalties_and_bias() -> None:
    logits = torch.zeros(1, 10, dtype=torch.bfloat16)
    assert sample(logits, [sampling(temperature=0.0, logit_bias={3: 1})])[0].token == 3


def test_logprobs_are_of_the_models_own_distribution() -> None:
    logits = logits_of([0.2, 0.5, 0.3])
    sampler = sampling(temperature=0.0, logprobs=2, logit_bias={0: 100})
    found = sample(logits, [sampler])[0]
    assert found.token == 0
    assert found.logprob == pytest.approx(math.log(0.2), abs=1e-6)
    assert [token for token, _ in found.top] == [1, 2]
    assert [logprob for _, logprob in found.top] == pytest.approx([math.log(0.5), math.log(0.3)], abs=1e-6)


def test_logprobs_without_alternatives_tell_of_the_chosen_token_only() -> None:
    found = sample(logits_of([0.2, 0.8]), [sampling(temperature=0.0, logprobs=0)])[0]
    assert found.logprob == pytest.approx(math.log(0.8), abs=1e-6)
    assert found.top == ()


def test_a_row_that_is_no_numbers_fails_alone() -> None:
    logits = torch.zeros(2, 5)
    logits[0, 3] = float("nan")
    first, second = sample(logits, [sampling(seed=1), sampling(temperature=0.0)])
    assert first.failed
    assert not second.failed

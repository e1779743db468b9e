from benchmarks.loads.wishes import GUIDANCE, MAX_STEPS, MIN_STEPS, wishes


def test_the_same_seed_gives_the_same_wishes() -> None:
    assert wishes(20, seed=1) == wishes(20, seed=1)
    assert wishes(20, seed=1) != wishes(20, seed=2)


def test_half_are_guided_and_no_sentence_comes_twice() -> None:
    asked = wishes(64, seed=3)
    assert sum(wish.guidance == GUIDANCE for wish in asked) == 32
    assert {wish.num_model_rows for wish in asked} == {1, 2}
    assert len({wish.prompt for wish in asked}) == 64


def test_steps_are_within_bounds_and_mixed() -> None:
    steps = {wish.steps for wish in wishes(200, seed=4)}
    assert min(steps) >= MIN_STEPS
    assert max(steps) <= MAX_STEPS
    assert len(steps) > 30

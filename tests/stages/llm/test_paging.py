"""Keys and values leave a stage in pages, behind its answers, and spare another stage, or a later moment, computing them."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stages.contract.errors import ConfigurationError, StageFailed
from stages.contract.pages import MadePage, Paged
from stages.contract.recipe import NO_INPUTS, Inputs, InputsMissing
from stages.contract.result import Result
from stages.contract.stage import Share
from stages.llm.llm import Llm
from stages.llm.messages import Generate, ImageSpan, Sampling, SoFar
from stages.llm.pages.kv_page import KvPage
from stages.llm.settings import LlmSettings
from stages.vision.messages import VisionFeatures
from tests.stages.llm.driving import NOTHING, Answer, drive, exported, recipe
from tests.stages.llm.library.oracle import load as load_with

pytestmark = pytest.mark.models

PAGE = 8
PROMPT = tuple(range(10, 40))
OTHER = tuple(range(300, 340))


def load(folder: Path, num_slots: int = 2, page_dtype: str = "auto") -> Llm:
    return load_with(folder, LlmSettings(num_slots, 128, 16, PAGE, page_dtype))


def ask(
    prompt: tuple[int, ...] = PROMPT, max_tokens: int = 4, images: tuple[tuple[int, int, str], ...] = (), salt: str = ""
) -> Generate:
    sampling = Sampling(max_tokens=max_tokens, temperature=0.0, logit_bias={2: -100.0}, logprobs=0)
    return Generate(prompt, sampling, tuple(ImageSpan(at, length, recipe(name)) for at, length, name in images), salt)


def answered(
    llm: Llm, work: Generate, pages: Mapping[str, Result] = NOTHING, results: Mapping[str, Result] = NOTHING
) -> Answer:
    (answer,) = drive(llm, [(0, work)], pages=pages, results=results)
    assert answer.error is None
    return answer


def cached(answer: Answer) -> int:
    assert answer.end is not None
    return answer.end.cached_tokens


def left(llm: Llm, *, idle: bool = False) -> list[MadePage]:
    found: list[MadePage] = []
    while llm.has_exports(idle=idle):
        found += llm.export(idle=idle)
    return found


def features(seed: int, rows: int = 4) -> VisionFeatures:
    return VisionFeatures(np.random.default_rng(seed).standard_normal((rows, 48)).astype(np.float32))


def test_it_is_a_paged_stage(folder: Path) -> None:
    stage: Paged[Generate] = load(folder)
    assert isinstance(stage, Paged)
    assert stage.page_type.kind() == "kv_page"


def test_of_a_prompt_every_full_page_is_told_with_what_it_saves(folder: Path) -> None:
    llm = load(folder)
    run = llm.page_run(ask())
    assert (len(run.names), run.num_resident, run.work, run.each_holds_all) == (3, 0, 8.0, False)
    made = exported_by(llm, ask())
    assert {run.num_bytes} == {page.value.num_bytes for page in made}
    assert llm.page_run(ask()) == llm.page_run(ask((*PROMPT, 5)))
    assert llm.page_run(ask()).num_resident == 3
    assert llm.page_run(ask((*PROMPT[:20], 9, 9, 9, 9))).num_resident == 2
    assert not llm.page_run(ask(PROMPT[:7])).names


def exported_by(llm: Llm, *works: Generate) -> list[MadePage]:
    drive(llm, [(0, work) for work in works])
    return left(llm, idle=True)


def test_where_all_but_the_last_token_is_held_its_page_need_not_be_brought(folder: Path) -> None:
    llm, work = load(folder), ask(PROMPT[:16])
    answered(llm, work)
    assert llm.page_run(work).num_resident == 2


def test_the_same_payload_is_read_once(folder: Path) -> None:
    llm, work = load(folder), ask()
    assert llm.prepare(work, NO_INPUTS).read is llm.prepare(work, NO_INPUTS).read
    assert llm.page_run(ask(salt="another")).names != llm.page_run(work).names


def test_an_answer_that_goes_on_elsewhere_finds_the_pages_of_what_it_had_said(folder: Path) -> None:
    first, work = load(folder), ask(max_tokens=30)
    whole = answered(first, work)
    rest = answered(load(folder), replace(work, so_far=SoFar(tuple(whole.tokens[:20]))), exported(first))
    assert (rest.tokens, rest.end) == (whole.tokens, replace(whole.end, cached_tokens=len(PROMPT)) if whole.end else None)
    assert len(rest.brought) == (len(PROMPT) + 20) // PAGE
    assert len(rest.steps) == 10
    assert whole.text.endswith(rest.text)


def test_a_fresh_stage_goes_on_where_anothers_pages_end(folder: Path) -> None:
    cold = load(folder)
    expected = answered(cold, ask(max_tokens=9))
    found = answered(load(folder), ask(max_tokens=9), exported(cold))
    assert found.tokens == expected.tokens
    assert [one.logprob for one in found.logprobs] == pytest.approx([one.logprob for one in expected.logprobs], abs=1e-5)
    assert (len(found.brought), cached(found), cached(expected)) == (3, 24, 0)


def test_the_last_token_of_a_prompt_is_computed_even_where_pages_hold_it(folder: Path) -> None:
    cold, work = load(folder), ask(PROMPT[:16])
    expected = answered(cold, work)
    fresh = load(folder)
    found = answered(fresh, work, exported(cold))
    assert (found.tokens, cached(found)) == (expected.tokens, 15)
    assert [page.name for page in left(fresh, idle=True)] == []  # what was brought is remembered already


def test_the_next_turn_finds_the_answers_pages_too(folder: Path) -> None:
    cold = load(folder)
    first = answered(cold, ask(max_tokens=20))
    turn = ask((*PROMPT, *first.tokens, 50, 51))
    fresh = load(folder)
    found = answered(fresh, turn, exported(cold))
    assert cached(found) == 48  # of 30 tokens, 20 that were answered, and 2: the answer's last was never computed
    assert found.tokens == answered(load(folder), turn).tokens


def test_what_a_slot_holds_and_what_pages_hold_go_together(folder: Path) -> None:
    cold, fresh = load(folder), load(folder)
    expected = answered(cold, ask())
    pages = exported(cold)
    answered(fresh, ask((*PROMPT[:12], 9, 9, 9)))
    found = answered(fresh, ask(), pages)
    assert found.brought == list(cold.page_run(ask()).names[1:])
    assert (found.tokens, cached(found)) == (expected.tokens, 24)


def test_a_running_slot_is_copied_from_and_pages_go_on_from_there(folder: Path) -> None:
    cold, fresh = load(folder), load(folder)
    expected = answered(cold, ask())
    running, found = drive(fresh, [(0, ask((*PROMPT[:12], 9, 9, 9), 30)), (3, ask())], pages=exported(cold))
    assert (found.tokens, cached(found)) == (expected.tokens, 24)
    assert running.tokens == answered(load(folder), ask((*PROMPT[:12], 9, 9, 9), 30)).tokens


def test_what_a_slot_lost_meanwhile_is_computed(folder: Path) -> None:
    cold, llm = load(folder), load(folder, num_slots=1)
    expected = answered(cold, ask())
    pages = exported(cold)
    answered(llm, ask(PROMPT[:12]))
    run = llm.page_run(ask())
    prepared = llm.prepare(ask(), Inputs({name: pages[name] for name in run.names[run.num_resident :]}))
    assert llm.share(prepared) == Share("llm", 6.0)
    answered(llm, ask(OTHER))
    assert llm.share(prepared) == Share("llm", 16.0)
    row = llm.start(ask(), prepared)
    while not llm.step([row])[0].done:
        pass
    assert list(row.answer) == expected.tokens
    assert row.num_cached == 0
    llm.finish(row)


def test_a_row_that_made_way_goes_on_though_its_pages_were_let_go_of(folder: Path) -> None:
    cold = load(folder)
    work = ask(max_tokens=12, images=((3, 4, "x"),))
    expected = answered(cold, work, results={"x": features(1)})
    llm = load(folder, num_slots=1)
    found, other = drive(
        llm,
        [(0, work), (1, ask(OTHER))],
        preempt=lambda step, index: index == 0 and step == 5,
        pages=exported(cold),
        results={"x": features(1)},
    )
    assert other.error is None
    assert (found.needed, found.missed) == ([], ["x"])
    assert (found.tokens, cached(found)) == (expected.tokens, 24)


def test_once_a_slot_has_them_pages_are_let_go_of(folder: Path) -> None:
    cold = load(folder)
    answered(cold, ask())
    llm = load(folder)
    prepared = llm.prepare(ask(), Inputs(exported(cold)))
    assert len(prepared.at_hand.pages) == 3
    llm.finish(llm.start(ask(), prepared))
    assert not prepared.at_hand.pages


def test_pages_that_do_not_fit_are_left_out(folder: Path) -> None:
    cold, fresh = load(folder), load(folder)
    expected = answered(cold, ask())
    strange = {
        name: KvPage.of({array: values[1:] for array, values in page.arrays().items()}) if index == 1 else page
        for index, (name, page) in enumerate(exported(cold).items())
    }
    found = answered(fresh, ask(), strange)
    assert (found.tokens, cached(found), len(found.brought)) == (expected.tokens, 8, 3)
    other = dict.fromkeys(strange, features(1))
    assert cached(answered(load(folder), ask(), other)) == 0


def test_what_was_asked_for_twice_leaves_at_once_and_what_was_asked_for_once_when_idle(folder: Path) -> None:
    llm = load(folder)
    answered(llm, ask())
    assert left(llm) == []
    answered(llm, ask((*PROMPT[:16], 5, 6, 7, 8, 9, 4, 3)))
    names = llm.page_run(ask()).names
    assert [page.name for page in left(llm)] == list(names[:2])
    assert names[2] in [page.name for page in left(llm, idle=True)]
    answered(llm, ask())
    assert left(llm) == []


def test_pages_leave_while_their_row_runs(folder: Path) -> None:
    llm = load(folder)
    row = llm.start(ask(), llm.prepare(ask(), NO_INPUTS))
    seen = []
    for _ in range(3):
        llm.step([row])
        seen.append(len(left(llm, idle=True)))
    assert seen == [0, 3, 0]  # only once its logits are known to be numbers
    llm.finish(row)


def test_a_call_hands_over_no_more_than_takes_a_few_milliseconds(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    llm = load(folder)
    answered(llm, ask(max_tokens=1))
    for pages, expected in ((2.5, 2), (0.5, 1)):
        monkeypatch.setattr("stages.llm.paging.EXPORT_BYTES", int(pages * llm.page_run(ask()).num_bytes))
        assert len(llm.export(idle=True)) == expected
    assert not llm.has_exports(idle=True)


def test_a_slot_that_is_given_away_leaves_what_was_asked_for_twice(folder: Path) -> None:
    llm = load(folder, num_slots=1)
    assert not llm.has_exports(idle=False)
    answered(llm, ask())
    answered(llm, ask(max_tokens=5))
    answered(llm, ask(OTHER))
    names = llm.page_run(ask()).names
    made = left(llm)
    assert [page.name for page in made] == list(names)
    found = answered(load(folder), ask(), {page.name: page.value for page in made})
    assert found.tokens == answered(load(folder), ask()).tokens
    assert cached(found) == 24


def test_where_nobody_takes_pages_nothing_is_kept_for_them(folder: Path) -> None:
    llm = load(folder, num_slots=1)
    for work in (ask(), ask(), ask(OTHER)):
        answered(llm, work)
    assert not llm.has_exports(idle=False)


def test_rows_whose_values_are_no_numbers_leave_nothing(folder: Path) -> None:
    llm = load(folder)
    broken = VisionFeatures(np.full((4, 48), np.nan, dtype=np.float32))
    work = ask(images=((9, 4, "x"),))
    (answer,) = drive(llm, [(0, work)], results={"x": broken})
    assert isinstance(answer.error, StageFailed)
    assert left(llm, idle=True) == []


def test_pages_are_named_under_their_tenants_salt_and_say_so(folder: Path) -> None:
    llm = load(folder)
    answered(llm, ask(salt="a"))
    made = left(llm, idle=True)
    assert {page.salt for page in made} == {"a"}
    assert not {page.name for page in made} & {*llm.page_run(ask(salt="b")).names}
    assert cached(answered(load(folder), ask(salt="b"), {page.name: page.value for page in made})) == 0


def test_of_images_only_those_that_reach_beyond_the_pages_are_needed(folder: Path) -> None:
    results = {"x": features(1), "y": features(2)}
    work = ask(images=((3, 4, "x"), (21, 4, "y")))  # y lies over the end of the third page, which begins at 16
    cold, fresh = load(folder), load(folder)
    expected = answered(cold, work, results=results)
    pages = exported(cold)
    found = answered(fresh, work, pages, results)
    assert (found.needed, found.missed) == (["y"], [])
    assert (found.tokens, cached(found)) == (expected.tokens, 24)
    alone = answered(load(folder), work, dict(list(pages.items())[:2]), results)
    assert (alone.needed, alone.missed, alone.tokens) == (["y"], [], expected.tokens)
    assert [one.name for one in load(folder).needs(work)] == ["x", "y"]


def test_an_image_in_a_page_that_no_longer_goes_on_from_a_slot_is_told_as_missing(folder: Path) -> None:
    results, work = {"x": features(1)}, ask(images=((9, 4, "x"),))
    cold, llm = load(folder), load(folder, num_slots=1)
    expected = answered(cold, work, results=results)
    pages = exported(cold)
    answered(llm, ask(PROMPT[:9]))
    run = llm.page_run(work)
    inputs = Inputs({name: pages[name] for name in run.names[1:]})
    prepared = llm.prepare(work, inputs)
    assert (run.num_resident, llm.needs(work, inputs)) == (1, ())
    answered(llm, ask(OTHER))
    with pytest.raises(InputsMissing) as missing:
        llm.start(work, prepared)
    assert [one.name for one in missing.value.recipes] == ["x"]
    again = llm.prepare(work, inputs.with_more(Inputs(results)))
    row = llm.start(work, again)
    while not llm.step([row])[0].done:
        pass
    assert list(row.answer) == expected.tokens


def test_pages_in_eight_bits_answer_nearly_the_same(folder: Path) -> None:
    cold, fresh = load(folder, page_dtype="int8"), load(folder, page_dtype="int8")
    expected = answered(cold, ask(max_tokens=1))
    pages = exported(cold)
    found = answered(fresh, ask(max_tokens=1), pages)
    assert cached(found) == 24
    off = abs(found.logprobs[0].logprob - expected.logprobs[0].logprob)
    assert 0 < off < 0.1
    assert cached(answered(load(folder), ask(), pages)) == 0  # nobody takes them for what was computed


@pytest.mark.parametrize("settings", [{"page_tokens": 0}, {"page_dtype": "int4"}])
def test_pages_that_cannot_be_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(settings))):
        LlmSettings(**settings)


def test_what_was_dropped_leaves_again_when_it_is_asked_for_again(folder: Path) -> None:
    llm = load(folder)
    answered(llm, ask())
    first = left(llm, idle=True)[0].name
    answered(llm, ask())
    assert first not in [page.name for page in left(llm)]
    llm.lost([first])
    assert llm.export(idle=False) == []
    answered(llm, ask())
    assert [page.name for page in left(llm)] == [first]

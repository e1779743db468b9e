"""What is remembered for one tenant is nothing to another, through HTTP: every kind of result, wherever it lies."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.cluster.remembering.serving import (
    DENOISER,
    ENCODER,
    LATENTS,
    SHARED,
    TEXTS,
    Answers,
    Remembering,
    Tenant,
    everything,
    fresh_png,
    hits,
    keys_named_to,
)
from tests.cluster.server import grown

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

COMPUTED = ((ENCODER, "batch_items_total"), (TEXTS, "batch_items_total"), (LATENTS, "batch_items_total"))


class Computed:
    """What the stages have computed for somebody, since the last time."""

    def __init__(self, remembering: Remembering) -> None:
        self._remembering = remembering
        self._before = self._now()

    def since(self) -> dict[str, float]:
        before, self._before = self._before, self._now()
        return {stage: grown(before[stage], now) for stage, now in self._before.items()}

    def _now(self) -> dict[str, dict[str, float]]:
        self._remembering.settle()
        counts = self._remembering.server.counts
        return {stage: counts("triptych_stage_batch_items_total", stage) for stage in (ENCODER, TEXTS, LATENTS, DENOISER)}


def asked_one_by_one(tenant: Tenant, image: bytes) -> tuple[int, int]:
    """Everything, one after the other. Tokens of the long chat that were remembered, and its pages."""
    asked = tenant.ask()
    tenant.look(image)
    tenant.paint()
    tenant.edit(image)
    return asked.cached_tokens, asked.num_pages


def test_the_same_tenant_finds_what_was_made_for_it_and_another_finds_nothing(remembering: Remembering) -> None:
    one, others, image = remembering.stranger(), [remembering.stranger(), remembering.stranger()], fresh_png(100)
    before, computed = remembering.keys(), Computed(remembering)
    with keys_named_to(remembering.results) as named_by_one:
        _, num_pages = asked_one_by_one(one, image)
        first = computed.since()
        own = remembering.written(before, num_pages)
        cached, _ = asked_one_by_one(one, image)
        assert cached >= 64 * num_pages  # in a slot, or as pages from the other replica
        again = computed.since()
    assert all(first.values()), first
    assert not any(again.values()), again  # not even a step: the images are finished
    for other in others:  # there are two replicas of the LLM
        found_before = hits(remembering.pages)
        with keys_named_to(remembering.results) as named_by_other:
            cached, _ = asked_one_by_one(other, image)
            assert computed.since() == first
        assert cached == 0
        assert hits(remembering.pages) == found_before
        assert named_by_one.isdisjoint(named_by_other)
        assert own.isdisjoint(remembering.keys() - before - own)


def test_what_two_tenants_need_at_once_is_made_for_each_and_once_for_each(remembering: Remembering) -> None:
    tenants, image = [remembering.stranger(), remembering.stranger()], fresh_png(101)
    computed = Computed(remembering)
    with ThreadPoolExecutor(8) as callers:
        list(callers.map(lambda tenant: tenant.look(image), tenants * 4))
    assert computed.since()[ENCODER] == 2


def test_no_receipt_of_a_tenant_tells_of_what_is_remembered(remembering: Remembering) -> None:
    tenant, image = remembering.stranger(), fresh_png(102)
    for found in (everything(tenant, image), everything(tenant, image)):
        assert found.receipts()
        assert not any(SHARED & visit.keys() for visit in found.receipts())
    told: Answers = everything(remembering.operator, image)
    assert all(visit.keys() >= SHARED for visit in told.receipts())

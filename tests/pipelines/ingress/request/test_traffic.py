"""Which model answers where a share of one's requests goes to others."""

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.ingress.request.settings import IngressSettings
from pipelines.ingress.request.traffic import model_for
from tests.pipelines.ingress.fakes import CHAT, EMBED, PAINT
from tests.pipelines.ingress.surface import chat_body, client_for, sse_events
from tests.pipelines.ingress.test_tenants import SEVERAL, key
from tests.pipelines.ingress.two_versions import TwoVersions, next_of

ALL = ("old", "new", "other")
weights = st.dictionaries(st.sampled_from(ALL), st.floats(0, 1e9), min_size=1).filter(lambda found: sum(found.values()) > 0)


def chosen(shares: dict[str, float], key: str = "k", may_ask: tuple[str, ...] = ALL) -> str:
    return model_for("old", {"old": shares}, key, may_ask)


@given(weights, st.text(max_size=20), st.sets(st.sampled_from(ALL)))
def test_who_answers_has_a_weight_and_may_be_asked_or_else_is_who_was_asked(
    shares: dict[str, float], key: str, may_ask: set[str]
) -> None:
    model = model_for("old", {"old": shares}, key, may_ask)
    able = {name for name, weight in shares.items() if weight > 0} & may_ask
    assert model in able if able else model == "old"
    assert model == model_for("old", {"old": shares}, key, may_ask)


def test_each_answers_its_share() -> None:
    found = Counter(chosen({"old": 7, "new": 2, "other": 1}, f"caller {number}") for number in range(20_000))
    assert {name: round(count / 20_000, 1) for name, count in found.items()} == {"old": 0.7, "new": 0.2, "other": 0.1}


def test_who_has_come_to_the_last_one_stays_there_when_its_share_grows() -> None:
    keys = [f"caller {number}" for number in range(2_000)]
    few = {key for key in keys if chosen({"old": 95, "new": 5}, key) == "new"}
    many = {key for key in keys if chosen({"old": 50, "new": 50}, key) == "new"}
    assert few
    assert few < many


def test_a_model_without_shares_answers_itself() -> None:
    assert model_for("old", {"new": {"other": 1}}, "k", ALL) == "old"


NEXT = next_of(CHAT)


def settings(**shares: float) -> IngressSettings:
    return replace(SEVERAL, traffic={CHAT: {CHAT: shares["old"], NEXT: shares["new"]}})


async def answered_by(client: Any, tenant: str = "root", **fields: Any) -> str:
    answer = await client.post("/v1/chat/completions", json=chat_body(**fields), headers=key(tenant))
    assert answer.status_code == 200
    return str(answer.json()["model"])


async def test_a_share_of_the_requests_is_answered_by_the_other_and_the_receipt_and_the_counters_say_so() -> None:
    async with client_for(TwoVersions(), settings(old=1, new=1)) as client:
        found = Counter([await answered_by(client) for _ in range(40)])
        assert set(found) == {CHAT, NEXT}
        page = (await client.get("/metrics", headers=key("root"))).text
    async with client_for(TwoVersions(), settings(old=0, new=1)) as client:
        answer = await client.post("/v1/chat/completions", json=chat_body(), headers=key("root"))
    notes = answer.json()["triptych"]["notes"]
    assert [note for note in notes if NEXT in str(note) and CHAT in str(note)] == list(notes)
    assert len(notes) == 1
    for model in (CHAT, NEXT):
        assert f'triptych_model_requests_total{{model="{model}"' in page


@pytest.mark.parametrize("field", ["prompt_cache_key", "safety_identifier", "user"])
async def test_what_belongs_together_stays_with_one(field: str) -> None:
    async with client_for(TwoVersions(), settings(old=1, new=1)) as client:
        for name in ("one", "two", "three"):
            assert len({await answered_by(client, **{field: name}) for _ in range(8)}) == 1
        assert len({await answered_by(client, **{field: f"user {number}"}) for number in range(40)}) == 2


async def test_a_stream_names_who_answers_too() -> None:
    async with client_for(TwoVersions(), settings(old=0, new=1)) as client:
        answer = await client.post("/v1/chat/completions", json=chat_body(stream=True), headers=key("root"))
    models = {event["model"] for event in sse_events(answer.text) if "model" in event}
    assert models == {NEXT}


async def test_a_tenant_that_may_not_ask_the_other_is_answered_by_its_own() -> None:
    own = replace(settings(old=0, new=1), models={"ada": frozenset({CHAT, EMBED}), "bob": frozenset({PAINT})})
    async with client_for(TwoVersions(), own) as client:
        assert await answered_by(client, "ada") == CHAT
        assert await answered_by(client, "root") == NEXT
        refused = await client.post("/v1/chat/completions", json=chat_body(), headers=key("bob"))
    assert refused.status_code == 404
    assert NEXT not in refused.text


async def test_tokens_are_those_of_the_model_that_is_named() -> None:
    service = TwoVersions()
    async with client_for(service, settings(old=0, new=1)) as client:
        answer = await client.post("/tokenize", json={"model": CHAT, "prompt": "two words"}, headers=key("root"))
    assert answer.status_code == 200

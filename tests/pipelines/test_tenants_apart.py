"""Nothing by which results, pages or their whereabouts are found is the same for two tenants: not a name, not a recipe's, not a hint that
chooses a replica. What is asked twice by one tenant has all of them in common."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from pipelines.client import LocalStageClient, Visit
from pipelines.context import RequestContext
from pipelines.embed import ClipEmbedPipeline
from pipelines.jobs import EmbedJob, ImagePart, PaintJob, TextPart, Trunk
from stages.contract.item import Item
from stages.contract.news import Hints, hint
from stages.contract.recipe import Recipe
from stages.diffusion.messages import Denoise
from stages.diffusion.step_state import state_names
from stages.host.host import StageHost
from tests.pipelines import test_embed, test_image_text, test_text_to_image
from tests.pipelines.measured_client import MeasuredClient

LONG = "a" * 130  # several blocks of hints


@dataclass(frozen=True, slots=True)
class Asked:
    """A kind of request, the client through which it goes, and the host that answers."""

    ask: Callable[[RequestContext], Awaitable[object]]
    client: MeasuredClient
    host: StageHost
    close: Callable[[], Awaitable[None]]


def chat() -> Asked:
    scene = test_image_text.Scene()
    job = test_image_text.job(TextPart(LONG), test_image_text.image(b"abc"), n=2)
    return Asked(lambda context: scene.chat(job, context), scene.client, scene.host, scene.close)


def painting(job: PaintJob) -> Callable[[], Asked]:
    def made() -> Asked:
        scene = test_text_to_image.Scene()
        pipeline = scene.pipeline(keep_steps=(0.5,), decoder_fingerprint="decoder")

        async def ask(context: RequestContext) -> None:
            async for _ in pipeline.paint(job, context):
                pass

        return Asked(ask, scene.client, scene.host, scene.close)

    return made


def embedding() -> Asked:
    scene = test_embed.Scene()
    client = MeasuredClient(LocalStageClient(scene.host))
    pipeline = ClipEmbedPipeline("m", client, test_embed.WORK, threads=scene.threads, fingerprint="f", max_pixels=100)
    job = EmbedJob((TextPart("a word"), ImagePart(b"abc", 1, 1, "input[1]")))

    async def close() -> None:
        scene.threads.close()
        await scene.host.close()

    return Asked(lambda context: pipeline.embed(job, context), client, scene.host, close)


REQUESTS: dict[str, Callable[[], Asked]] = {
    "a chat about an image": chat,
    "a painting": painting(PaintJob("a red boat", seed=5)),
    "a variation": painting(PaintJob("a red boat", seed=5, trunk=Trunk("a boat", 0.5))),
    "an edit": painting(test_text_to_image.edit(seed=5)),
    "an embedding": embedding,
}


@pytest.fixture(params=list(REQUESTS))
async def asked(request: pytest.FixtureRequest) -> AsyncIterator[Asked]:
    made = REQUESTS[request.param]()
    yield made
    await made.close()


def found_by(items: Iterable[Item[Any]], visits: Iterable[Visit]) -> set[object]:
    """All names and hints."""
    found: set[object] = set()
    for item in items:
        found |= {item.name, *_in(item.hints), *_in_payload(item.payload)}
    for visit in visits:
        found |= {visit.name, *_in(visit.hints)}
    return found - {None}


def _in(hints: Hints) -> Sequence[int]:
    return [*hints.chain, *hints.parts]


def _in_payload(payload: Any) -> Iterable[object]:
    recipes: Sequence[Recipe[Any]] = payload.needs()
    for recipe in recipes:
        yield recipe.name
        yield hint(recipe.name)
        yield from _in_payload(recipe.payload)
    if isinstance(payload, Denoise):
        yield from state_names(payload, str(payload.sampler)).values()


async def told(asked: Asked, tenant: str) -> set[object]:
    asked.client.items.clear()
    asked.client.visits.clear()
    await asked.ask(RequestContext(tenant=tenant, salt=f"salt of {tenant}"))
    await asked.host.settled()
    return found_by(asked.client.items, asked.client.visits)


async def test_two_tenants_have_no_name_and_no_hint_in_common(asked: Asked) -> None:
    ada, again, bob = await told(asked, "ada"), await told(asked, "ada"), await told(asked, "bob")
    assert ada
    assert ada == again
    assert ada.isdisjoint(bob)


async def test_what_replicas_tell_that_they_hold_for_one_is_nothing_to_another(asked: Asked) -> None:
    ada = await told(asked, "ada")
    held = {one for news in asked.host.news() for one in news.holds}
    bob = await told(asked, "bob")
    hints = {hint(one) if isinstance(one, str) else one for one in ada}
    assert held <= hints
    assert held.isdisjoint(hint(one) if isinstance(one, str) else one for one in bob)

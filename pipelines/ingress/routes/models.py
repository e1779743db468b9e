"""GET /v1/models, /health and /ready: what is served and whether it can be. Knows no stages but by their cards."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from pipelines.ingress.request.errors import shown_address
from pipelines.ingress.schemas.models import ModelEntry, ModelList, ModelNote, PaintBounds, Readiness, SamplingNote, StageNote
from pipelines.jobs import ModelCard, Service, StageCard
from stages.contract.errors import TriptychError, UnknownModel
from stages.llm.messages import Sampling


@dataclass(frozen=True, slots=True)
class ModelsRoute:
    service: Service

    async def listed(self, seen: Service) -> ModelList:
        """`seen`: what of the service whoever asks may see."""
        stages = await _stages(seen)
        return ModelList(object="list", data=[_entry(card, stages) for card in seen.models()])

    async def one(self, model: str, seen: Service) -> ModelEntry:
        """Raises `UnknownModel`."""
        cards = seen.models()
        for card in cards:
            if card.id == model:
                return _entry(card, await _stages(seen))
        served = ", ".join(card.id for card in cards) or "none"
        raise UnknownModel(f"model {shown_address(model)} is not served; models: {served}", param="model")

    async def readiness(self, seen: Service | None) -> Readiness:
        """Ready when every stage that a model needs has a live replica in one pool, or is scaled to zero on purpose. Which of those that
        are seen has none, and why nobody can tell, is not told where it is not known who asks (None)."""
        readiness = await self._readiness()
        if seen is None:
            return Readiness(ready=readiness.ready, **_age(readiness.age_s))
        own = {name for card in seen.models() for name in card.stages}
        missing = [name for name in readiness.missing or () if name in own]
        pools = [pool for pool in readiness.pools or () if pool.name in own]
        return readiness.model_copy(update={"missing": missing} | ({"pools": pools} if pools else {}))

    async def _readiness(self) -> Readiness:
        try:
            stages = await self.service.stage_cards()
        except TriptychError as error:
            return Readiness(ready=False, missing=[], reason=error.message)
        able = {stage.name for stage in stages if stage.ready or stage.scaled_to_zero}
        needed = dict.fromkeys(name for card in self.service.models() for name in card.stages)
        missing = [name for name in needed if name not in able]
        age = _age(max((stage.age_s for stage in stages), default=0.0))
        return Readiness(ready=not missing, missing=missing, **_pools(stages), **age)


def _age(age_s: float | None) -> dict[str, float]:
    """Told where there is one."""
    return {"age_s": round(age_s, 3)} if age_s else {}


def _pools(stages: Sequence[StageCard]) -> dict[str, list[StageNote]]:
    """Told where a stage has several."""
    num_pools = Counter(stage.name for stage in stages)
    pools = [_stage(stage) for stage in stages if num_pools[stage.name] > 1]
    return {"pools": pools} if pools else {}


async def _stages(seen: Service) -> Sequence[StageCard]:
    """What is known of the stages; nothing while nobody can tell: the models themselves are known regardless."""
    try:
        return await seen.stage_cards()
    except TriptychError:
        return ()


def _entry(card: ModelCard, stages: Sequence[StageCard]) -> ModelEntry:
    note = ModelNote(
        pipeline=card.pipeline,
        stages=[_stage(stage) for stage in stages if stage.name in card.stages],
        max_context_tokens=card.max_context_tokens,
        accepts_images=card.accepts_images,
        sampling=_sampling(card.sampling) if card.sampling is not None else None,
        tool_choices=list(card.tool_choices) if card.tool_choices is not None else None,
        paint=_bounds(card) if card.pipeline == "text_to_image" else None,
    )
    return ModelEntry(id=card.id, object="model", created=card.created, owned_by="triptych", triptych=note)


def _sampling(defaults: Sampling) -> SamplingNote:
    return SamplingNote(**{name: getattr(defaults, name) for name in SamplingNote.model_fields})


def _bounds(card: ModelCard) -> PaintBounds:
    return PaintBounds(
        sizes=[f"{width}x{height}" for width, height in card.sizes],
        size_multiple=card.size_multiple,
        default_steps=card.default_steps,
        max_steps=card.max_steps,
        default_guidance_scale=card.default_guidance_scale,
        default_strength=card.default_strength,
        samplers=list(card.samplers),
        max_prompt_tokens=card.max_prompt_tokens,
    )


def _stage(card: StageCard) -> StageNote:
    return StageNote(
        name=card.name,
        kind=card.kind,
        deployment=card.deployment,
        device=card.device,
        dtype=card.dtype,
        replicas=card.replicas,
        ready=card.ready,
        scaled_to_zero=card.scaled_to_zero,
        loader=card.loader,
        source=card.source,
        accelerator_type=card.accelerator_type,
        capacity=card.capacity,
    )

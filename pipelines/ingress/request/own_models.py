"""A service as a tenant sees it that may ask some of its models only: the others are not there, and no message names them.

Knows no configuration and no HTTP.
"""

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from pipelines.jobs import ChatPipeline, EmbedPipeline, ModelCard, PaintPipeline, Service, StageCard, TextPipeline
from stages.contract.errors import InvalidRequest, UnknownModel
from stages.contract.item import StageMetrics


@dataclass(frozen=True, slots=True)
class OwnModels:
    """Implements `Service`."""

    service: Service
    own: AbstractSet[str]

    def models(self) -> Sequence[ModelCard]:
        return [card for card in self.service.models() if card.id in self.own]

    def chat_pipeline(self, model: str) -> ChatPipeline:
        self._check(model, "image_text", "answer chat requests")
        return self.service.chat_pipeline(model)

    def text_pipeline(self, model: str) -> TextPipeline:
        self._check(model, "image_text", "complete texts")
        return self.service.text_pipeline(model)

    def paint_pipeline(self, model: str) -> PaintPipeline:
        self._check(model, "text_to_image", "paint images")
        return self.service.paint_pipeline(model)

    def embed_pipeline(self, model: str) -> EmbedPipeline:
        self._check(model, "embed", "embed")
        return self.service.embed_pipeline(model)

    async def stage_cards(self) -> Sequence[StageCard]:
        return [card for card in await self.service.stage_cards() if card.name in self._stages()]

    async def stage_metrics(self) -> Sequence[StageMetrics]:
        return [metrics for metrics in await self.service.stage_metrics() if metrics.stage in self._stages()]

    def _stages(self) -> AbstractSet[str]:
        return {stage for card in self.models() for stage in card.stages}

    def _check(self, model: str, pipeline: str, what: str) -> None:
        """The service's own refusals would name everybody's models."""
        kinds = {card.id: card.pipeline for card in self.models()}
        able = ", ".join(name for name, kind in kinds.items() if kind == pipeline) or "none"
        if model not in kinds:
            raise UnknownModel(f"model {model!r} is not served; models that {what}: {able}", param="model")
        if kinds[model] != pipeline:
            raise InvalidRequest(f"model {model!r} does not {what}; models that do: {able}", param="model")

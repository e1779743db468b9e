"""A service whose models have a next version each, which does the same."""

from dataclasses import replace
from typing import Any

from tests.pipelines.ingress.fakes import FakeService

BEHIND = "-next"


def next_of(model: str) -> str:
    return model + BEHIND


class TwoVersions(FakeService):
    def models(self) -> Any:
        first = super().models()
        return (*first, *(replace(card, id=next_of(card.id)) for card in first))

    def chat_pipeline(self, model: str) -> Any:
        return super().chat_pipeline(model.removesuffix(BEHIND))

    def paint_pipeline(self, model: str) -> Any:
        return super().paint_pipeline(model.removesuffix(BEHIND))

"""How a model that speaks is asked where a request says nothing. Knows models by their cards only."""

from pipelines.jobs import Service
from stages.contract.errors import InvalidRequest, UnknownModel
from stages.llm.messages import Sampling


def how_asked(served: Service, model: str) -> Sampling:
    """`served`: what whoever asks may ask. Raises `UnknownModel` for a model that doesn't speak."""
    for card in served.models():
        if card.id == model and card.sampling is not None:
            return card.sampling
    raise UnknownModel(f"model {model!r} answers no chats", param="model")


def the_model(served: Service, given: str) -> str:
    """`given`, or the only model that speaks where none is. Raises `InvalidRequest` where there are several."""
    speaking = [card.id for card in served.models() if card.sampling is not None]
    if given or len(speaking) == 1:
        return given or speaking[0]
    raise InvalidRequest(f"model is required; models: {', '.join(speaking) or 'none'}", param="model")


def context_of(served: Service, model: str) -> int:
    """Tokens of the model's context."""
    return next((card.max_context_tokens or 0 for card in served.models() if card.id == model), 0)

"""What ends an answer, besides its bound. Pure; knows no text and no logits."""

from collections.abc import Collection

from stages.llm.messages import Sampling


def end_tokens(sampling: Sampling, own: Collection[int]) -> frozenset[int]:
    """`own`: the model's. An answer that is held to something ends by them whatever is asked, since what it is held to does."""
    ignored = sampling.ignore_eos and sampling.constraint is None
    return frozenset(sampling.stop_token_ids) | (frozenset() if ignored else frozenset(own))

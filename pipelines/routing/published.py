"""How a replica's news travels through Serve's controller, which publishes it to every process that routes there.

As bytes: the controller, which reads what replicas return, may not have Triptych's code. Pure.
"""

import pickle
from collections.abc import Sequence

from stages.contract.message import readable_only
from stages.contract.news import StageNews

NEWS = "news"
"""What `record_routing_stats` calls it."""


def as_published(news: Sequence[StageNews]) -> bytes:
    return pickle.dumps(tuple(news))


def news_in(published: bytes) -> Sequence[StageNews]:
    """Of this cluster's own replicas only, as Ray itself reads what they return. What can't be read here is no news."""
    found: Sequence[StageNews] = pickle.loads(published)  # noqa: S301
    return readable_only(found)

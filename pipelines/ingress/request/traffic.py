"""Which model answers where a share of the requests for one goes to others: a new version is tried on a few before it gets all.

Decides by weights alone, and so that what belongs together stays together. Knows no bodies and no settings files.
"""

import hashlib
from collections.abc import Container, Mapping

Shares = Mapping[str, float]
"""Model -> weight."""


def model_for(asked: str, traffic: Mapping[str, Shares], key: str, may_ask: Container[str]) -> str:
    """`traffic`: by the model that is asked. The same `key` comes to the same model as long as the weights stay, and one whose share
    grows keeps what it has, if it stands last. What the caller may not ask gets nothing; who is left shares among themselves, and where
    nobody is, whoever was asked answers."""
    shares = {model: weight for model, weight in traffic.get(asked, {}).items() if weight > 0 and model in may_ask}
    if not shares:
        return asked
    digest = hashlib.blake2b(f"{asked}\0{key}".encode(), digest_size=8).digest()
    left = int.from_bytes(digest) / 2**64 * sum(shares.values())
    for model, weight in shares.items():
        left -= weight
        if left < 0:
            return model
    return model

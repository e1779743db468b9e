"""Messages as they were pickled when each was first written down: by these, later code shows that it reads what earlier code says.

    python -m tests.stages.contract.kept_messages

adds the messages that are not in the file yet, and changes none that is. Where a break is intended, raise `MESSAGES_VERSION` first: the
new version begins a file of its own, and the old one's is to be deleted.
"""

import base64
import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stages.contract.message import KNOWN, MESSAGES_VERSION, MessageType
from tests.stages.contract.examples import described, least, whole

KEPT = Path(__file__).with_name(f"messages_{MESSAGES_VERSION}.json")
MODULES = (
    "pipelines.cluster.state.metrics_table",
    "pipelines.planning.scaling.observation",
    "stages.contract.item",
    "stages.contract.recipe",
    "stages.diffusion.messages",
    "stages.host.packed_item",
    "stages.llm.messages",
    "stages.vision.messages",
)
"""That define messages, or import who does."""


def messages() -> Mapping[str, MessageType]:
    """Those of the program."""
    for module in MODULES:
        __import__(module)
    found = {where: known for where, known in KNOWN.messages.items() if not where.startswith("tests.")}
    return dict(sorted(found.items()))


def kept() -> Mapping[str, Any]:
    found: Mapping[str, Any] = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    return found


def written(message: MessageType) -> Mapping[str, Any]:
    return {form: _written(make(message)) for form, make in (("least", least), ("whole", whole))}


def _written(value: object) -> Mapping[str, Any]:
    return {"pickle": base64.b64encode(pickle.dumps(value, protocol=5)).decode(), "means": described(value)}


def main() -> None:
    found = {where: written(message) for where, message in messages().items()} | dict(kept())
    lines = (f"{json.dumps(where)}: {json.dumps(found[where])}" for where in sorted(found))
    KEPT.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    print(f"{KEPT}: {len(found)} messages")


if __name__ == "__main__":
    main()

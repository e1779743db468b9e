"""The arguments of the shipped configuration, and those with something changed."""

from pathlib import Path
from typing import Any

import yaml

SHIPPED = Path(__file__).parents[3] / "serve_config.yaml"


def shipped_args() -> dict[str, Any]:
    document = yaml.safe_load(SHIPPED.read_text())
    args: dict[str, Any] = document["applications"][0]["args"]
    return args


def changed(path: str, value: Any) -> dict[str, Any]:
    args = shipped_args()
    *parents, last = path.split(".")
    place = args
    for key in parents:
        place = place[key]
    place[last] = value
    return args

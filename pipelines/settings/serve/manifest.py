"""A KubeRay RayService that holds a configuration: its manifest with another `serveConfigV2`.

Decides which lines of the text are that. The rest stays to the letter, comments too. Pure; knows nothing else of Kubernetes.
"""

import re
from collections.abc import Mapping
from typing import Any

import yaml

from stages.contract.errors import ConfigurationError

FIELD = "serveConfigV2"
STARTS = re.compile(rf"^( *){FIELD}:.*$")


def serve_yaml(document: Mapping[str, Any]) -> str:
    """A Serve config as it is printed."""
    return yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=140)


def with_serve_config(manifest: str, document: Mapping[str, Any]) -> str:
    """The manifest's text with this Serve config. Raises `ConfigurationError` where it has none, or several, to put it in place of."""
    lines = manifest.splitlines()
    starts = [number for number, line in enumerate(lines) if STARTS.match(line)]
    if len(starts) != 1:
        raise ConfigurationError(
            f"{FIELD}: a manifest must have it on exactly one line, under spec of a RayService; found {len(starts)}"
        )
    (start,) = starts
    indent = " " * (len(lines[start]) - len(lines[start].lstrip()))
    end = next((number for number in range(start + 1, len(lines)) if not _is_within(lines[number], indent)), len(lines))
    block = [f"{indent}  {line}" if line else "" for line in serve_yaml(document).splitlines()]
    return "\n".join([*lines[:start], f"{indent}{FIELD}: |", *block, *lines[end:]]) + "\n"


def _is_within(line: str, indent: str) -> bool:
    return not line.strip() or line.startswith(indent + " ")

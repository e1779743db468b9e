"""What a configuration becomes with another laid over it."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines.settings.config_file import load
from pipelines.settings.overlay import overlaid
from stages.contract.errors import ConfigurationError
from tests.pipelines.settings.shipped import SHIPPED

BASE = {"a": {"b": 1, "c": [1, 2], "d": {"e": 5}}, "apps": [{"name": "one", "args": {"x": 1}}, {"name": "two"}]}


@pytest.mark.parametrize(
    ("overlay", "found"),
    [
        ({}, BASE),
        ({"a": {"b": 2}}, BASE | {"a": {"b": 2, "c": [1, 2], "d": {"e": 5}}}),
        ({"a": {"c": [3]}}, BASE | {"a": {"b": 1, "c": [3], "d": {"e": 5}}}),
        ({"a": {"d": None}}, BASE | {"a": {"b": 1, "c": [1, 2], "d": None}}),
        ({"a": {"d": {"$patch": "delete"}}}, BASE | {"a": {"b": 1, "c": [1, 2]}}),
        ({"a": {"$patch": "replace", "f": 6}}, BASE | {"a": {"f": 6}}),
        ({"new": {"$patch": "replace", "f": 6}}, BASE | {"new": {"f": 6}}),
        ({"apps": [{"name": "one", "args": {"y": 2}}]}, BASE | {"apps": [{"name": "one", "args": {"x": 1, "y": 2}}, {"name": "two"}]}),
        ({"apps": [{"name": "three"}]}, BASE | {"apps": [*BASE["apps"], {"name": "three"}]}),
        ({"apps": []}, BASE | {"apps": []}),
        ({"a": 5}, BASE | {"a": 5}),
    ],
)  # fmt: skip
def test_mappings_and_named_entries_are_merged_and_the_rest_is_replaced(
    overlay: dict[str, Any], found: dict[str, Any]
) -> None:
    before = yaml.safe_dump(BASE)
    assert overlaid(BASE, overlay) == found
    assert yaml.safe_dump(BASE) == before


@pytest.mark.parametrize(
    ("overlay", "words"),
    [
        ({"a": {"x": {"$patch": "delete"}}}, "a.x: there is none to delete; there are b, c, d"),
        ({"apps": [{"name": "four", "$patch": "delete"}]}, "apps.four: there is none to delete; there are one, two"),
        ({"a": {"d": {"$patch": "merge"}}}, "a.d.$patch: 'merge' is neither delete nor replace"),
        ({"$patch": "replace"}, "$patch: 'replace' means nothing here"),
    ],
)
def test_a_patch_that_would_do_nothing_is_refused(overlay: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        overlaid(BASE, overlay)
    assert words in refused.value.message


def test_overlays_are_laid_one_after_another_and_what_comes_of_them_is_checked(tmp_path: Path) -> None:
    def args(name: str, given: dict[str, Any]) -> Path:
        (tmp_path / name).write_text(yaml.safe_dump({"applications": [{"name": "triptych", "args": given}]}))
        return tmp_path / name

    first = args("first.yaml", {"limits": {"image_bytes": 5_000_000, "max_request_s": 100, "default_request_s": 60}})
    second = args("second.yaml", {"limits": {"max_request_s": 90}, "cache": {"redis": None}})
    limits = load(SHIPPED, [first, second]).app.limits
    assert (limits.image_bytes, limits.max_request_s) == (5_000_000, 90)
    assert load(SHIPPED, [first, second]).app.cache.redis is None
    wrong = args("wrong.yaml", {"deployments": {"lm": {"$patch": "delete"}}})
    with pytest.raises(
        ConfigurationError, match=r"wrong\.yaml: applications\.triptych\.args\.deployments\.lm: there is none to delete"
    ):
        load(SHIPPED, [wrong])
    with pytest.raises(ConfigurationError, match=r"limits\.image_byte: Extra inputs"):
        load(SHIPPED, [args("typo.yaml", {"limits": {"image_byte": 1}})])

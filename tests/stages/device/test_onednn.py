"""A process whose steps all have other sizes keeps few of oneDNN's plans, and so little memory."""

import os
import subprocess
import sys

import pytest

from stages.checkpoints.checkpoint import LoadOptions, Source
from stages.contract.limits import BatchLimits, QueueLimits
from stages.device.onednn import KEPT, VARIABLES, keep_few_plans
from stages.host.kinds.registry import KINDS, StageSpec, sizes_vary

PROGRAM = """
import sys
import psutil
import torch
if sys.argv[1] == "few":
    from stages.device.onednn import keep_few_plans
    keep_few_plans()
torch.set_num_threads(1)
used = lambda: psutil.Process().memory_info().rss
with torch.inference_mode():
    packed = torch.ops.mkldnn._reorder_linear_weight(torch.randn(1536, 576), None)
    found = []
    for rows in [*range(1, 301), *range(1, 601)]:
        given = torch.randn(rows, 576)
        torch.ops.mkldnn._linear_pointwise(given, packed, None, "none", [], "")
        found.append(used())
print((found[-1] - found[299]) // 2**20)
"""


@pytest.mark.models
def test_of_what_has_another_size_each_time_few_plans_are_kept() -> None:
    growth = {}
    for kept in ("few", "all"):
        ended = subprocess.run([sys.executable, "-c", PROGRAM, kept], capture_output=True, text=True, timeout=120, check=True)
        growth[kept] = int(ended.stdout)
    assert growth["all"] > 100, "torch keeps fewer by itself: then this is for nothing"
    assert growth["few"] < growth["all"] / 2


def test_what_the_environment_says_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    given, left = VARIABLES
    monkeypatch.setenv(given, "7")
    monkeypatch.setenv(left, "")
    monkeypatch.delenv(left)
    keep_few_plans()
    assert [os.environ[name] for name in VARIABLES] == ["7", str(KEPT)]


def _spec(kind: str, loader: str) -> StageSpec:
    return StageSpec(f"m.{kind}", kind, loader, Source(hub="org/name"), LoadOptions(), BatchLimits(), QueueLimits())


def test_only_language_models_have_other_sizes_in_every_step() -> None:
    found = {name for (name, loader) in KINDS if sizes_vary([_spec(name, loader)])}
    assert found == {"llm"}
    assert not sizes_vary([_spec("llm", "transformers"), _spec("denoiser", "diffusers")])

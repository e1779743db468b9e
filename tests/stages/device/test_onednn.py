"""A process whose steps all have other sizes keeps few of oneDNN's plans, and so little memory."""

import os
import platform
import subprocess
import sys

import pytest
import torch

from stages.checkpoints.checkpoint import LoadOptions, Source
from stages.contract.limits import BatchLimits, QueueLimits
from stages.device.onednn import KEPT, OF_THE_LIBRARY, ONCE, OWN, keep_few_plans
from stages.device.packed_linear import can_pack
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


X86_64 = platform.machine() in ("x86_64", "AMD64")


@pytest.mark.cpu
@pytest.mark.models
@pytest.mark.skipif(not X86_64, reason="torch keeps hardly any elsewhere")
def test_of_what_has_another_size_each_time_few_plans_are_kept() -> None:
    if not can_pack(torch.float32):
        pytest.skip("torch has no oneDNN here")
    environment = {name: value for name, value in os.environ.items() if name not in (OWN, OF_THE_LIBRARY, ONCE)}
    growth = {}
    for kept in ("few", "all"):
        ended = subprocess.run(
            [sys.executable, "-c", PROGRAM, kept], env=environment, capture_output=True, text=True, timeout=120, check=True
        )
        growth[kept] = int(ended.stdout)
    assert growth["all"] > 50, "torch keeps few by itself: then this is for nothing"
    assert growth["few"] < growth["all"] / 2


@pytest.mark.skipif(not X86_64, reason="nothing is said elsewhere")
def test_what_the_environment_says_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (OWN, OF_THE_LIBRARY, ONCE):
        monkeypatch.setenv(name, "7")
    monkeypatch.delenv(OF_THE_LIBRARY)
    keep_few_plans()
    assert (os.environ[OWN], os.environ.get(OF_THE_LIBRARY)) == ("7", None)
    monkeypatch.delenv(OWN)
    monkeypatch.delenv(ONCE)
    keep_few_plans()
    assert os.environ[OWN] == os.environ[OF_THE_LIBRARY] == str(KEPT)
    monkeypatch.delenv(OWN)
    keep_few_plans(num_rows=64)
    assert int(os.environ[OWN]) > 5 * 64  # a decoding step of any number of rows finds its own


def _spec(kind: str, loader: str) -> StageSpec:
    return StageSpec(f"m.{kind}", kind, loader, Source(hub="org/name"), LoadOptions(), BatchLimits(), QueueLimits())


def test_only_language_models_have_other_sizes_in_every_step() -> None:
    found = {name for (name, loader) in KINDS if sizes_vary([_spec(name, loader)])}
    assert found == {"llm"}
    assert not sizes_vary([_spec("llm", "transformers"), _spec("denoiser", "diffusers")])
    assert not sizes_vary([])  # what is added later may be of any kind

"""The CPU beside the GPU: the tests that depend on what a CPU can do, as this one is and limited to less, and the dtype that `auto` is on
each. Every limit in a process of its own; they run together, on cores of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass

from benchmarks.gpu.part import Part
from benchmarks.reporting.report import ROOT

LIMITS: Mapping[str, Mapping[str, str]] = {
    "as it is": {},
    "AVX2": {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"},
    "AVX-512": {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE", "ATEN_CPU_CAPABILITY": "avx512"},
    "AVX-512 with bfloat16": {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16", "ATEN_CPU_CAPABILITY": "avx512"},
    "AMX": {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_AMX", "ATEN_CPU_CAPABILITY": "avx512"},
}
TESTED = (
    "tests/stages/device/test_dtypes.py",
    "tests/stages/device/test_packed_linear.py",
    "tests/stages/diffusion/test_denoiser.py",
    "tests/stages/diffusion/test_text_encoder.py",
    "tests/stages/llm/model/test_self_check.py",
    "tests/stages/llm/test_llm.py",
    "tests/stages/vision/clip/test_encoder.py",
)
"""Those of the tests marked `cpu` that need no downloaded model."""
ON_A_GPU = (
    "tests/stages/device/test_uploads.py",
    "tests/stages/llm/sampling/test_on_a_gpu.py",
    "tests/stages/llm/model/decoding/test_recorded.py",
)
LIMIT_S = 150
_ASKS = """
import json, torch
from stages.device.dtypes import choose_dtype
from stages.device.packed_linear import gains
torch.set_num_threads({threads})
print(json.dumps({{
    "capability": torch.backends.cpu.get_cpu_capability(),
    "bf16": bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()), "fp16": bool(torch.ops.mkldnn._is_mkldnn_fp16_supported()),
    "auto_packed": choose_dtype("cpu", None, packed=True), "auto_plain": choose_dtype("cpu", None, packed=False),
    "auto_of_float16": choose_dtype("cpu", "float16", packed=False), "float32_is_packed": gains(torch.float32),
}}))
"""


@dataclass(frozen=True, slots=True)
class _Limited:
    environment: Mapping[str, str]
    cores: str

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        command = ["taskset", "-c", self.cores, sys.executable, *arguments]
        num_threads = str(len(self.cores.split(",")))
        environment = {**os.environ, **self.environment, "OMP_NUM_THREADS": num_threads, "CUDA_VISIBLE_DEVICES": ""}
        return subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )


def run(part: Part) -> None:
    part.add(what="cpu", told=_lscpu())
    tests = ["-m", "pytest", "-p", "no:cacheprovider", "-m", "cpu", "-q", "--no-header", "-rf", *TESTED]
    tested = {name: one.start(*tests) for name, one in _limited().items() if not part.quick}
    for name, process in tested.items():
        with part.trying(f"tests, {name}"):
            out, _ = process.communicate(timeout=LIMIT_S)
            lines = out.strip().splitlines()
            failed = [line[:160] for line in lines if line.startswith(("FAILED", "ERROR"))]
            print(out[-6000:] if process.returncode else "")
            told = lines[-1][:160] if lines else ""
            part.add(what="tests", limit=name, ok=process.returncode == 0, told=told, failed=" | ".join(failed)[:1500])
    for process in tested.values():
        process.kill()


def run_auto(part: Part) -> None:
    """One after the other, beside nothing: what is fast is measured."""
    for name, one in _limited().items():
        with part.trying(f"auto, {name}"):
            out, _ = one.start("-c", _ASKS.format(threads=len(one.cores.split(",")))).communicate(timeout=60)
            part.add(what="auto", limit=name, ok=True, **json.loads(out.strip().splitlines()[-1]))


def _limited() -> Mapping[str, _Limited]:
    given = sorted(os.sched_getaffinity(0))
    each = max(1, len(given) // (len(LIMITS) + 1))
    return {
        name: _Limited(environment, ",".join(map(str, given[number * each : (number + 1) * each])))
        for number, (name, environment) in enumerate(LIMITS.items())
    }


def run_gpu_tests(part: Part) -> None:
    """Those that a machine without a GPU skips."""
    with part.trying("tests that want a GPU"):
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", "--no-header", "-rfs", *ON_A_GPU]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=LIMIT_S)
        lines = done.stdout.strip().splitlines()
        print(done.stdout[-20_000:])
        failed = [line[:160] for line in lines if line.startswith(("FAILED", "ERROR"))]
        part.add(what="tests that want a GPU", ok=done.returncode == 0, told=lines[-1][:160], failed=" | ".join(failed)[:1500])


def _lscpu() -> str:
    out = subprocess.run(["lscpu"], capture_output=True, text=True, check=False).stdout
    wanted = [line.split(":", 1)[1].strip() for line in out.splitlines() if line.startswith(("Model name", "CPU(s)"))]
    flags = next((line for line in out.splitlines() if line.startswith("Flags")), "").split()
    return "; ".join([*wanted, " ".join(flag for flag in flags if flag.startswith(("avx", "amx")))])

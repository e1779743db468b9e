"""How the sides are served: Triptych with the demo's model that sees, remembering or not, and vLLM's CPU build with its prefix cache.

Decides slots, budgets and replicas, and how a replica is killed. Knows no loads.
"""

from __future__ import annotations

import os
import secrets
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.llm.sides import DTYPE, ENV, SkippedSide
from benchmarks.peers.vllm_venv import NoVenv, vllm_command
from benchmarks.servers import triptych
from benchmarks.servers.server import port, serving
from benchmarks.servers.triptych import Config

MODEL = "triptych-see"
CONTEXT = 2048
KV_BYTES_PER_TOKEN = 30 * 3 * 64 * 2 * {"float32": 4}.get(DTYPE, 2)
"""Of the demo's language model."""
_MARK = "TRIPTYCH_BENCHMARK"


@dataclass(frozen=True, slots=True)
class Served:
    """A Triptych that runs. `mark`: in the environment of every process that it has started."""

    url: str
    mark: str

    def kill(self, deployment: str, replica: str = "") -> int:
        """Kills every replica of a deployment, or the one of this name, and says how many."""
        killed = 0
        for process in psutil.process_iter(["cmdline"]):
            with suppress(psutil.Error):
                title = " ".join(process.info["cmdline"] or [])
                is_one = "ServeReplica:" in title and f":{deployment}" in title and process.environ().get(_MARK) == self.mark
                if is_one and (not replica or _writes_log_of(process, replica)):
                    os.kill(process.pid, signal.SIGKILL)
                    killed += 1
        return killed


def _writes_log_of(process: psutil.Process, replica: str) -> bool:
    """The name of Serve's log ends with the replica's."""
    return any(Path(file.path).stem.endswith(f"_{replica}") for file in process.open_files())


@contextmanager
def served(config: Config) -> Iterator[Served]:
    mark = secrets.token_hex(8)
    with triptych.served(config, env={_MARK: mark}) as url:
        yield Served(url, mark)


def one_of_each(*, num_slots: int, memory_tokens: int, redis_tokens: int) -> Config:
    """One replica of the LLM and of the encoder. Memory holds so many tokens' keys and values, Redis so many."""
    config = _see(replicas=1, num_slots=num_slots)
    cache = config["applications"][0]["args"]["cache"]
    redis = {"url": "embedded", "max_memory_bytes": redis_tokens * KV_BYTES_PER_TOKEN}
    cache["kv"] = {"memory_bytes": memory_tokens * KV_BYTES_PER_TOKEN, "redis": redis}
    return config


def two_of_each(*, remembers: bool, num_slots: int) -> Config:
    """Two replicas of the LLM and of the encoder, with the budgets that are the default; or with nothing remembered but in slots. The LLM's
    have a core each: where both would compute with two, two servers that are alike differ by more than remembering could cost."""
    config = _see(replicas=2, num_slots=num_slots)
    triptych.fixed(config, "llm", num_replicas=2, torch_threads=1)
    if not remembers:
        config["applications"][0]["args"]["cache"] = {"memory_bytes": 0, "redis": None, "kv": None}
    return config


def _see(*, replicas: int, num_slots: int) -> Config:
    config = deepcopy(triptych.only(triptych.shipped_config(), MODEL))
    config["applications"][0]["name"] = f"benchmark-{secrets.token_hex(4)}"  # several may run beside each other
    triptych.model_of(config, MODEL)["llm"] |= {"num_slots": num_slots, "max_context_tokens": CONTEXT}
    triptych.fixed(config, "llm", num_replicas=replicas)
    triptych.fixed(config, "vision-encoder", num_replicas=replicas)
    return config


@contextmanager
def vllm(folder: Path) -> Iterator[str]:
    """vLLM's CPU build with this checkpoint, and its prefix cache on. Raises `SkippedSide`."""
    try:
        command, env = vllm_command()
    except NoVenv as reason:
        raise SkippedSide(str(reason)) from reason
    at = port()
    command += ["--model", str(folder), "--port", str(at), "--dtype", DTYPE, "--max-model-len", str(CONTEXT)]
    command += ["--max-num-seqs", "8", "--served-model-name", MODEL, "--enable-prefix-caching"]
    with serving(command, port=at, env=ENV | env | {"VLLM_CPU_KVCACHE_SPACE": "2"}) as url:
        yield url

"""The faults: which processes of a server are struck, with what, and what can't be answered until they are back. Decides the list; strikes
nobody."""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import psutil

from benchmarks.faults.two_nodes import SECOND
from benchmarks.mixed.requests import Kind
from benchmarks.servers.parts import Server


@dataclass(frozen=True, slots=True)
class Fault:
    """`victims`: found anew each time. `needs`: the kind of request that isn't answered without them. `shows`: what of the server's own
    pages tells that it is back, beside an answer. `replaced`: others take the place of the victims."""

    name: str
    what: str
    victims: Callable[[Server], Sequence[psutil.Process]]
    needs: Kind
    by: signal.Signals = signal.SIGKILL
    shows: str = ""
    replaced: bool = True
    num_nodes: int = 1


def _replica(name: str, needs: Kind, what: str, shows: str = "") -> Fault:
    return Fault(name, f"kill -9 of {what}", lambda server: server.replicas(name), needs, shows=shows)


NOTHING, METRICS, READY = "nothing", "metrics", "ready"

FAULTS = (
    Fault(NOTHING, "nothing", lambda server: (), Kind.GREEDY, replaced=False),
    _replica("llm", Kind.GREEDY, "the LLM's replica"),
    _replica("vision-encoder", Kind.IMAGE_CHAT, "the vision encoder's"),
    _replica("denoiser", Kind.PAINTING, "the denoiser's"),
    _replica("text-encoder", Kind.PAINTING, "the text encoder's"),
    _replica("vae", Kind.PAINTING, "the VAE's"),
    _replica("clip", Kind.EMBEDDING, "the embedder's"),
    _replica("ingress", Kind.GREEDY, "the HTTP surface's"),
    _replica("metrics", Kind.GREEDY, "the metrics table", METRICS),
    Fault("redis", "kill -9 of both Redis servers", lambda server: server.named("valkey-server", "redis-server"), Kind.GREEDY),
    Fault("proxy", "kill -9 of Serve's HTTP proxy", lambda server: server.named("ProxyActor"), Kind.GREEDY),
    Fault(
        "controller", "kill -9 of Serve's controller", lambda server: server.named("ServeController"), Kind.GREEDY, shows=READY
    ),
    Fault(
        "stopped-llm", "SIGSTOP of the LLM's replica", lambda server: server.replicas("llm"), Kind.GREEDY, by=signal.SIGSTOP
    ),
    Fault(
        "node",
        "kill -9 of all of a node of two",
        lambda server: server.node(SECOND),
        Kind.GREEDY,
        replaced=False,
        num_nodes=2,
    ),
)

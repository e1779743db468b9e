"""The faults: which processes of a server are struck, with what, what else is wrong meanwhile, and what can't be answered until they are
back. Decides the list; strikes nobody."""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

import psutil

from benchmarks.faults.two_nodes import SECOND
from benchmarks.mixed.requests import Kind
from benchmarks.servers.parts import Server


class Cluster(StrEnum):
    """What the server runs on."""

    NODE = "a node"
    TWO_NODES = "two nodes"
    SMALL_DISK = "a node with a small disk"


@dataclass(frozen=True, slots=True)
class Fault:
    """`victims`: found anew each time. `needs`: the kind of request that isn't answered without them. `shows`: what of the server's own
    pages tells that it is back, beside an answer. `replaced`: others take the place of the victims. `fills_disk`: its disk is full from
    then on until it is back."""

    name: str
    what: str
    victims: Callable[[Server], Sequence[psutil.Process]]
    needs: Kind
    by: signal.Signals = signal.SIGKILL
    shows: str = ""
    replaced: bool = True
    on: Cluster = Cluster.NODE
    fills_disk: bool = False


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
        on=Cluster.TWO_NODES,
    ),
    Fault("disk", "a full disk", lambda server: (), Kind.GREEDY, replaced=False, on=Cluster.SMALL_DISK, fills_disk=True),
    Fault(
        "disk-llm",
        "a full disk, and kill -9 of the LLM's replica",
        lambda server: server.replicas("llm"),
        Kind.GREEDY,
        on=Cluster.SMALL_DISK,
        fills_disk=True,
    ),
)

"""A span for each piece of work that a host is given or asks of another stage, where its request is traced. Decides what of a receipt a
span tells. No span a step."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from stages.contract.item import Item, StageReceipt
from stages.contract.trace import NO_SPAN, Span, Tracer, Value


@contextmanager
def traced(tracer: Tracer, name: str, item: Item[Any]) -> Iterator[tuple[Item[Any], Span]]:
    """The item, as a part of the span around what is done with it."""
    if item.trace is None:
        yield item, NO_SPAN
        return
    span = tracer.begin(name, item.trace)
    try:
        yield replace(item, trace=span.trace), span
    except BaseException as error:  # whatever it is, and a stream that is closed
        span.end(error)
        raise
    span.end()


@contextmanager
def resolving(tracer: Tracer, stage: str, item: Item[Any]) -> Iterator[Callable[[StageReceipt], None]]:
    """Around how a result is come by; it yields what is to be told of it. What was made elsewhere has its span there, and none here."""
    if item.trace is None:
        yield _nothing
        return
    span, found = tracer.begin(f"resolve {stage}", item.trace), list[StageReceipt]()
    try:
        yield found.append
    except BaseException as error:
        span.end(error)
        raise
    if found and (found[0].pool is None or found[0].cache == "joined"):
        span.set(told_by(found[0]))
        span.end()


def _nothing(receipt: StageReceipt) -> None:
    """Nobody records it."""


def told_by(receipt: StageReceipt) -> Mapping[str, Value]:
    told: dict[str, Value] = {
        "triptych.stage": receipt.stage,
        "triptych.replica": receipt.replica,
        "triptych.device": receipt.device,
        "triptych.cache": receipt.cache,
        "triptych.queue_s": receipt.queue_s,
        "triptych.device_s": receipt.device_s,
        "triptych.batch_size": receipt.batch_size,
        "triptych.steps": receipt.steps,
    }
    return told if receipt.pool is None else {**told, "triptych.pool": receipt.pool}

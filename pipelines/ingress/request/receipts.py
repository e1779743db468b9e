"""From what stages noted on a request to the `triptych` object its client sees. Decides what several tenants must not see, and keeps each
for who asks again."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from pipelines.context import RequestContext
from pipelines.ingress.request.recent_receipts import RecentReceipts
from pipelines.ingress.schemas.receipt import NoteEntry, Receipt, StageEntry
from stages.contract.item import StageReceipt


@dataclass(frozen=True, slots=True)
class ReceiptPrinter:
    """`sees_all`: whether a tenant may know of what it shares with others: cache, batches, replicas."""

    sees_all: Callable[[str], bool]
    recent: RecentReceipts

    def receipt(self, context: RequestContext) -> Receipt:
        """Of a request that is through."""
        receipt = Receipt(
            request_id=context.id,
            total_s=_seconds(max(0.0, time.time() - context.created)),
            device_s=_seconds(context.device_seconds()),
            stages=[_entry(receipt, whole=self.sees_all(context.tenant)) for receipt in context.receipts],
            **_notes(context),
        )
        self.recent.keep(context.tenant, receipt)
        return receipt

    def again(self, request_id: str, tenant: str) -> Receipt | None:
        """Of a request that was through not long ago, as far as the tenant may know of it."""
        return self.recent.find(request_id, tenant, of_all=self.sees_all(tenant))


def _notes(context: RequestContext) -> dict[str, list[NoteEntry]]:
    notes = [NoteEntry(field=note.field, note=note.text) for note in context.notes]
    return {"notes": notes} if notes else {}


def _entry(receipt: StageReceipt, *, whole: bool) -> StageEntry:
    shared = {
        "replica": receipt.replica,
        "batch_size": round(receipt.batch_size, 2),
        "cache": receipt.cache,
        "bytes_moved": receipt.bytes_moved,
        "cache_s": _seconds(receipt.cache_s),
        **_choice(receipt),
    }
    return StageEntry.model_validate(
        {
            "stage": receipt.stage,
            "device": receipt.device,
            "dtype": receipt.dtype,
            "queue_s": _seconds(receipt.queue_s),
            "run_s": _seconds(receipt.run_s),
            "device_s": _seconds(receipt.device_s),
            "steps": receipt.steps,
            "ended_s": _seconds(receipt.ended_s),
            **({"ended_early": True} if receipt.ended_early else {}),
            **(shared if whole else {}),
        }
    )


def _choice(receipt: StageReceipt) -> dict[str, object]:
    """Why it was sent where it was."""
    if receipt.pool is None:
        return {}
    told: dict[str, object] = {"pool": receipt.pool}
    if receipt.reasons:
        told |= {"remembered": list(receipt.remembered), "reasons": list(receipt.reasons)}
    if receipt.expected_s is not None:
        told["expected_s"] = _seconds(receipt.expected_s)
    if receipt.runner_up is not None and receipt.runner_up_s is not None:
        told |= {
            "runner_up": receipt.runner_up,
            "runner_up_pool": receipt.runner_up_pool,
            "runner_up_s": _seconds(receipt.runner_up_s),
        }
    return told


def _seconds(value: float) -> float:
    return round(value, 6)

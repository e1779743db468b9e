"""From what stages noted on a request to the `triptych` object its client sees. Decides what several tenants must not see."""

import time
from dataclasses import dataclass

from pipelines.context import RequestContext
from pipelines.ingress.schemas.receipt import Receipt, StageEntry
from stages.contract.item import StageReceipt


@dataclass(frozen=True, slots=True)
class ReceiptPrinter:
    show_cache: bool

    def receipt(self, context: RequestContext) -> Receipt:
        return Receipt(
            request_id=context.id,
            total_s=_seconds(max(0.0, time.time() - context.created)),
            device_s=_seconds(context.device_seconds()),
            stages=[self._entry(receipt) for receipt in context.receipts],
        )

    def _entry(self, receipt: StageReceipt) -> StageEntry:
        cache = {"cache": receipt.cache, "bytes_moved": receipt.bytes_moved} if self.show_cache else {}
        return StageEntry.model_validate(
            {
                "stage": receipt.stage,
                "replica": receipt.replica,
                "device": receipt.device,
                "dtype": receipt.dtype,
                "queue_s": _seconds(receipt.queue_s),
                "run_s": _seconds(receipt.run_s),
                "device_s": _seconds(receipt.device_s),
                "batch_size": round(receipt.batch_size, 2),
                "steps": receipt.steps,
                "ended_s": _seconds(receipt.ended_s),
                **cache,
            }
        )


def _seconds(value: float) -> float:
    return round(value, 6)

"""What a client is told of a request's stages."""

from pipelines.context import RequestContext
from pipelines.ingress.request.receipts import ReceiptPrinter
from pipelines.ingress.request.recent_receipts import RecentReceipts
from stages.contract.item import StageReceipt


def test_of_an_answer_that_went_on_elsewhere_both_replicas_are_told() -> None:
    context = RequestContext()
    context.add(StageReceipt("m.llm", "r1", "unknown", "unknown", run_s=3.0, ended_early=True, pool="llm"))
    context.add(StageReceipt("m.llm", "r2", device_s=0.5, pool="llm"))
    receipt = ReceiptPrinter(lambda tenant: True, RecentReceipts()).receipt(context)
    first, second = receipt.model_dump(exclude_unset=True)["stages"]
    assert (first["replica"], first["run_s"], first["ended_early"]) == ("r1", 3.0, True)
    assert second["replica"] == "r2"
    assert "ended_early" not in second
    assert receipt.device_s == 0.5

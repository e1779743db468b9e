"""When what was made for an item ended, as it is told from process to process."""

from stages.contract.item import StageReceipt
from stages.host.held_receipts import handed_on, held


def test_every_process_adds_how_long_it_held_a_receipt_by_its_own_clock() -> None:
    inner = handed_on(held([StageReceipt("m.inner")], 1000.0), 1002.5)
    outer = handed_on(held([*inner, StageReceipt("m.outer")], 7.0), 10.0)
    assert [(receipt.stage, receipt.ago_s) for receipt in outer] == [("m.inner", 5.5), ("m.outer", 3.0)]

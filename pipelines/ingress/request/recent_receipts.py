"""The receipts of the latest requests, to be asked for again by their ids. Decides how many are kept, and whose are shown to whom.

In this process only: with several replicas of the HTTP surface each knows the requests that it answered.
"""

import threading
from collections import OrderedDict

from pipelines.ingress.schemas.receipt import Receipt

MAX_KEPT = 1000


class RecentReceipts:
    """On any thread."""

    def __init__(self, max_kept: int = MAX_KEPT) -> None:
        self._max_kept = max_kept
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[str, str], Receipt] = OrderedDict()  # by tenant and request, the latest last

    def keep(self, tenant: str, receipt: Receipt) -> None:
        """In place of an earlier one of that tenant's with that id: ids are the clients' to choose."""
        key = tenant, receipt.request_id
        with self._lock:
            self._kept[key] = receipt
            self._kept.move_to_end(key)
            if len(self._kept) > self._max_kept:
                self._kept.popitem(last=False)

    def find(self, request_id: str, tenant: str, *, of_all: bool) -> Receipt | None:
        """`of_all`: whether that tenant may see everybody's; its own first, then the latest."""
        with self._lock:
            own = self._kept.get((tenant, request_id))
            if own is not None or not of_all:
                return own
            return next((found for (_, name), found in reversed(self._kept.items()) if name == request_id), None)

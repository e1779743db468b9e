"""The `triptych` object of a response: what ran where on behalf of this very request, and how long it took. Knows no
pipelines."""

from typing import Literal

from pydantic import Field

from pipelines.ingress.schemas.strict import ResponseBody


class StageEntry(ResponseBody):
    """One visit to one stage. Seconds. What tells of other requests (`replica`, `batch_size`, `cache`, `bytes_moved`, `cache_s`) is absent
    where several tenants are served, but for operators."""

    stage: str
    replica: str | None = None
    device: str
    dtype: str = Field(description="what it computes in")
    queue_s: float = Field(description="waited for the device")
    run_s: float = Field(description="ran, in batches shared with other requests")
    device_s: float = Field(description="this request's share of the device's time")
    batch_size: float | None = Field(None, description="mean over the steps")
    steps: int
    ended_s: float = Field(description="seconds after the request's arrival; its last step ended about then")
    cache: Literal["off", "miss", "slots", "memory", "redis", "joined"] | None = None
    bytes_moved: int | None = None
    cache_s: float | None = Field(
        None, description="waited for what is remembered of its beginning, before it waited for the device"
    )


class Receipt(ResponseBody):
    request_id: str
    total_s: float = Field(description="from arrival to this receipt")
    device_s: float = Field(description="over all stages")
    stages: list[StageEntry]

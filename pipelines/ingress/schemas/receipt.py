"""The `triptych` object of a response: what ran where on behalf of this very request, and how long it took. Knows no
pipelines."""

from pydantic import Field

from pipelines.ingress.schemas.strict import ResponseBody


class StageEntry(ResponseBody):
    """One visit to one stage. Seconds. What tells of other requests (`replica`, `batch_size`, `cache`, `bytes_moved`, `cache_s`, and why it
    was sent where it was) is absent where several tenants are served, but for operators."""

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
    cache: str | None = Field(
        None, description="off, miss, joined, slots, or the tier of the cache that had it: memory, redis"
    )
    bytes_moved: int | None = None
    cache_s: float | None = Field(
        None, description="waited for what is remembered of its beginning, before it waited for the device"
    )
    pool: str | None = Field(None, description="the deployment that it was sent to; absent: it ran where it was asked for")
    expected_s: float | None = Field(
        None, description="in how much time it was expected to be done, when it was sent there; absent: nobody chose"
    )
    runner_up: str | None = Field(None, description="the replica that would have been next")
    runner_up_pool: str | None = None
    runner_up_s: float | None = Field(None, description="in how much time it was expected to be done there")
    remembered: list[str] | None = Field(None, description="what of it was known to be at hand there")
    reasons: list[str] | None = Field(None, description="why it was sent there")
    ended_early: bool | None = Field(
        None,
        description="true: its replica ended, and another went on, whose entry follows; of what it did only `run_s` is known; absent: "
        "it came to its end",
    )


class NoteEntry(ResponseBody):
    field: str
    note: str


class Receipt(ResponseBody):
    request_id: str
    total_s: float = Field(description="from arrival to this receipt")
    device_s: float = Field(description="over all stages")
    stages: list[StageEntry]
    notes: list[NoteEntry] | None = Field(
        None, description="fields of the request that did not do what they might have done; absent: none"
    )

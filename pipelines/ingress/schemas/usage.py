"""GET /v1/usage: what a tenant has used, by the day."""

from typing import Literal

from pydantic import Field

from pipelines.ingress.schemas.strict import ResponseBody


class UsageDay(ResponseBody):
    """Of one tenant. Batches' requests are counted where they are answered, a job's where it is submitted."""

    date: str = Field(description="in UTC, such as 2026-02-28")
    tenant: str
    requests: int = Field(description="that were let in, however they ended")
    refused: int = Field(description="by a quota")
    input_tokens: int
    output_tokens: int
    device_seconds: float = Field(description="its requests' own parts of what they shared with others")
    stages: dict[str, float] = Field(description="device_seconds by stage")


class UsageList(ResponseBody):
    object: Literal["list"]
    data: list[UsageDay] = Field(description="the latest day first; a day on which a tenant used nothing is not there")
    survives: bool = Field(
        description="whether this is of all HTTP replicas, and outlives them (cache.redis); else of the one that answered, since it began"
    )

"""A job's request as it is kept: what a `PaintJob` says, and how its images are to be handed over, as bytes and back. Pure.

What is kept may outlive the version that wrote it: what can't be read any more is no request, and its job fails.
"""

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from pipelines.ingress.schemas.images import ImageFormat
from pipelines.jobs import GivenImage, ImagePart, PaintJob, Trunk
from stages.contract.errors import StageFailed

_LENGTH = struct.Struct(">I")


@dataclass(frozen=True, slots=True)
class JobRequest:
    """`asked_as`: of the body that it came in; `notes`: of fields without effect, for the receipt."""

    model: str
    job: PaintJob
    format: ImageFormat
    quality: int
    priority: int = 0
    asked_as: Mapping[str, str] = field(default_factory=dict)
    notes: Mapping[str, str] = field(default_factory=dict)

    def to_bytes(self) -> bytes:
        """JSON, and behind it the images."""
        job, init = self.job, self.job.init
        parts = [part for part in (init.image, init.mask) if part is not None] if init is not None else []
        given = None if init is None else {"strength": init.strength, "images": [_described(part) for part in parts]}
        fields: dict[str, Any] = {**asdict(replace(self, job=replace(job, init=None)))}
        head = json.dumps({**fields, "init": given}).encode()
        return b"".join([_LENGTH.pack(len(head)), head, *(part.data for part in parts)])

    @classmethod
    def of(cls, data: bytes) -> "JobRequest":
        """Raises `StageFailed`."""
        try:
            (length,) = _LENGTH.unpack_from(data)
            fields = json.loads(data[_LENGTH.size : _LENGTH.size + length])
            init = _init(fields.pop("init"), data[_LENGTH.size + length :])
            job = fields.pop("job")
            trunk = Trunk(**job["trunk"]) if job["trunk"] is not None else None
            return cls(job=PaintJob(**{**job, "init": init, "trunk": trunk}), **fields)
        except (struct.error, ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            raise StageFailed("the request of this job can't be read any more", detail=str(error)) from error


def _described(part: ImagePart) -> dict[str, Any]:
    return {"num_bytes": len(part.data), "width": part.width, "height": part.height, "param": part.param}


def _init(given: Mapping[str, Any] | None, data: bytes) -> GivenImage | None:
    if given is None:
        return None
    parts = _parts(given["images"], data)
    return GivenImage(parts[0], given["strength"], parts[1] if len(parts) > 1 else None)


def _parts(described: Sequence[Mapping[str, Any]], data: bytes) -> Sequence[ImagePart]:
    parts, start = [], 0
    for each in described:
        end = start + each["num_bytes"]
        parts.append(ImagePart(data[start:end], each["width"], each["height"], each["param"]))
        start = end
    return parts

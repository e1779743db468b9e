"""Records of two versions side by side: what one wrote, the other reads, or there is none for it."""

import json
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from cache.store import MemoryStore
from pipelines.ingress.kept import records
from pipelines.ingress.kept.files import FileNote, KeptFiles
from pipelines.ingress.kept.work_state import Status, WorkState
from tests.pipelines.ingress.kept.workers import ADA, values_in

STATE = WorkState("a", created=1.0, until=2.0)


@dataclass(frozen=True, slots=True)
class Earlier:
    id: str


@dataclass(frozen=True, slots=True)
class Later:
    id: str
    about: dict[str, Any] = field(default_factory=dict)
    size: int = 1


def test_what_is_new_and_not_made_use_of_is_understood_by_an_earlier_version() -> None:
    assert records.of_bytes(Earlier, records.to_bytes(Later("a"))) == Earlier("a")
    assert records.of_bytes(Later, records.to_bytes(Earlier("a"))) == Later("a")


@pytest.mark.parametrize("later", [Later("a", {"x": 1}), Later("a", size=2)])
def test_what_says_something_that_is_not_known_is_none(later: Later) -> None:
    assert records.of_bytes(Later, records.to_bytes(later)) == later
    assert records.of_bytes(Earlier, records.to_bytes(later)) is None


@pytest.mark.parametrize("data", [b"", b"\xff", b"{}", b"[1]", b"null", b'{"id": "a", "id2": 1}', b"[" * 10**5])
def test_what_is_no_record_is_none(data: bytes) -> None:
    assert records.of_bytes(Earlier, data) is None


@pytest.mark.parametrize(
    "state", [STATE, replace(STATE, status=Status.DONE, tries=2, told={"images": ["a"]}, error={"code": "x"}, ended=3.0)]
)
def test_the_state_of_work_is_read_as_it_was_written(state: WorkState) -> None:
    read = WorkState.of(state.to_bytes())
    assert read == state
    assert isinstance(read.status, Status)


def test_a_status_that_is_not_known_here_is_none() -> None:
    assert WorkState.of(json.dumps({"id": "a", "created": 1, "until": 2, "status": "paused"}).encode()) is None


async def test_a_file_of_a_later_version_is_not_there_and_can_be_deleted() -> None:
    values = values_in(MemoryStore(10**6))
    files = KeptFiles(values, keep_s=60, max_bytes=1000, max_files=5)
    note = await files.put("file-1", "a.jsonl", "batch", b"content", ADA)
    assert await files.note("file-1", ADA) == note == FileNote("file-1", "a.jsonl", "batch", 7, note.created, note.expires)
    later = json.dumps({"id": "file-1", "checksum": "x"}).encode()
    await values.replace(files._notes, "file-1", later, ADA)
    assert await files.note("file-1", ADA) is None
    await files.delete("file-1", ADA)
    assert (await files.content("file-1", ADA), await files.ids(ADA)) == (None, [])

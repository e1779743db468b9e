"""Keys in files that change while the surface serves: new ones are taken without a restart, broken ones leave the old in use."""

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from pipelines.cluster.live_app import Built, LiveApp, Succession
from pipelines.ingress.app import Kept, create_app
from pipelines.ingress.request.settings import settings_of
from pipelines.ingress.tenants.key_files import KeyFiles
from pipelines.settings.config_file import parse
from pipelines.threads import Threads
from stages.concurrency.thread_pool import ThreadPool
from tests.pipelines.ingress.fakes import FakeService
from tests.pipelines.ingress.kept.workers import Clock
from tests.pipelines.ingress.surface import client_of
from tests.pipelines.settings.shipped import changed

OLD, NEW, OTHER = ("a-key-that-is-old-0001", "a-key-that-is-new-0002", "a-key-of-bobs-000003")


class Served:
    """A surface whose keys are in files, put together as the replica of the HTTP surface does it (`pipelines/app.py`)."""

    def __init__(self, auth: dict[str, Any]) -> None:
        self.live, self.threads = LiveApp(), Threads.new()
        self.given = changed("auth", auth)
        self.succession = Succession[dict[str, Any]](self.live, self._built, self._changed)
        self.files = KeyFiles(self.threads.kept, self._read_again)
        self.kept: Kept | None = None
        self.num_built = 0

    def _built(self, given: dict[str, Any]) -> Built[dict[str, Any]]:
        config = parse(given)
        self.files.note(config.auth.files())
        settings = settings_of(config)
        self.kept = self.kept or Kept.new(settings, self.threads, live=self.live)
        self.num_built += 1
        return Built(given, create_app(FakeService(), settings, self.kept), str(self.num_built))

    def _changed(self, built: Built[dict[str, Any]] | None) -> None:
        assert self.kept is not None
        self.kept.metrics.settings_refused(built is None)

    async def _read_again(self) -> None:
        await self.succession.take(self.given)

    async def look(self) -> bool:
        """Whether keys were read again; and what came of that is in use."""
        found = await self.files.look()
        await self.succession.settled()
        return found


@asynccontextmanager
async def served(**auth: Any) -> AsyncIterator[tuple[Served, httpx.AsyncClient]]:
    surface = Served(auth)
    await surface.succession.take(surface.given)
    async with client_of(surface.live) as client:
        yield surface, client
    surface.files.close()
    surface.threads.close()


async def known(client: httpx.AsyncClient, *keys: str) -> list[bool]:
    answers = [await client.get("/v1/models", headers={"authorization": f"Bearer {key}"}) for key in keys]
    assert {answer.status_code for answer in answers} <= {200, 401}
    return [answer.status_code == 200 for answer in answers]


async def refused(client: httpx.AsyncClient, key: str) -> float:
    page = (await client.get("/metrics", headers={"authorization": f"Bearer {key}"})).text
    [line] = [line for line in page.splitlines() if line.startswith("triptych_http_settings_refused")]
    return float(line.rpartition(" ")[2])


async def test_a_key_in_a_file_is_exchanged_while_the_surface_serves(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(f"{OLD}\n")
    async with served(keys=[{"tenant": "ada", "file": f"{tmp_path}/key"}]) as (surface, client):
        assert await known(client, OLD, NEW) == [True, False]
        (tmp_path / "key").write_text(f"{NEW}\n{OLD}\n")
        assert await surface.look()
        assert await known(client, OLD, NEW) == [True, True]  # for as long as clients take to change over
        (tmp_path / "key").write_text(f"{NEW}\n")
        assert await surface.look()
        assert await known(client, OLD, NEW) == [False, True]


async def test_files_that_are_as_they_were_have_nothing_read(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(OLD)
    async with served(keys=[{"tenant": "ada", "file": f"{tmp_path}/key"}]) as (surface, _):
        assert [await surface.look() for _ in range(3)] == [False] * 3
        assert surface.num_built == 1


async def test_a_mounted_secret_that_kubernetes_exchanges_is_a_change(tmp_path: Path) -> None:
    """Its files are links into a folder, which is a link that is put in place of the old one; sizes and times may be the same."""
    for version, key in (("..1", OLD), ("..2", NEW)):
        (tmp_path / version).mkdir()
        (tmp_path / version / "key").write_text(key)
        os.utime(tmp_path / version / "key", (1e9, 1e9))
    (tmp_path / "..data").symlink_to("..1")
    (tmp_path / "key").symlink_to("..data/key")
    async with served(keys=[{"tenant": "ada", "file": f"{tmp_path}/key"}]) as (surface, client):
        (tmp_path / "..tmp").symlink_to("..2")
        (tmp_path / "..tmp").rename(tmp_path / "..data")
        assert await surface.look()
        assert await known(client, OLD, NEW) == [False, True]


@pytest.mark.parametrize("broken", [b"", b"short\n", b"\xff" * 30, f"{NEW}\nshort\n".encode(), OTHER.encode(), None])
async def test_a_broken_file_leaves_the_old_keys_in_use_and_is_told_of_until_it_is_mended(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, broken: bytes | None
) -> None:
    (tmp_path / "ada").write_text(OLD)
    (tmp_path / "bob").write_text(OTHER)
    (tmp_path / "secret").write_text("what-keeps-tenants-apart")
    keys = [{"tenant": tenant, "file": f"{tmp_path}/{tenant}"} for tenant in ("ada", "bob")]
    async with served(keys=keys, secret_file=f"{tmp_path}/secret", operators=["bob"]) as (surface, client):
        assert await refused(client, OTHER) == 0
        if broken is None:
            (tmp_path / "ada").unlink()
        else:
            (tmp_path / "ada").write_bytes(broken)
        with caplog.at_level(logging.ERROR):
            assert await surface.look()
        assert await known(client, OLD, NEW, OTHER) == [True, False, True]
        assert surface.succession.refused is not None
        assert "auth.keys" in surface.succession.refused[1]
        assert "the changed configuration is refused" in caplog.text
        assert await refused(client, OTHER) == 1
        assert not await surface.look()  # it isn't tried again and again
        (tmp_path / "ada").write_text(NEW)
        assert await surface.look()
        assert await known(client, OLD, NEW, OTHER) == [False, True, True]
        assert await refused(client, OTHER) == 0
        assert not any(key in caplog.text for key in (OLD, NEW, OTHER))


async def test_who_asks_while_keys_are_exchanged_is_answered_by_the_key_that_was_good(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(OLD)
    async with served(keys=[{"tenant": "ada", "file": f"{tmp_path}/key"}]) as (surface, client):
        (tmp_path / "key").write_text(NEW)
        looking = asyncio.create_task(surface.look())
        while not looking.done():
            assert any(await known(client, OLD, NEW))
            await asyncio.sleep(0)  # a client in this process lets nobody else in
        assert await looking


async def test_it_is_looked_no_more_often_than_it_should_and_not_at_all_where_no_file_holds_a_key(tmp_path: Path) -> None:
    clock, told = Clock(), asyncio.Event()
    pool = ThreadPool("looking", threads=1, max_waiting=10)

    async def changed_now() -> None:
        told.set()

    files = KeyFiles(pool, changed_now, every_s=5.0, now=clock)
    (tmp_path / "key").write_text(OLD)
    files.note([f"{tmp_path}/key"])
    (tmp_path / "key").write_text(NEW)
    clock.now += 4.9
    files.look_soon()
    assert files._looking is None
    clock.now += 0.1
    files.look_soon()
    await told.wait()
    await _until(lambda: files._looking is not None and files._looking.done())
    files.note([])
    before, clock.now = files._looking, clock.now + 100
    files.look_soon()
    assert files._looking is before
    pool.close()


async def _until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0)

"""The embedded Redis server: private, bounded, and gone when its owner is."""

import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from cache.redis import embedded
from cache.redis.embedded import EmbeddedRedis, EmbeddedRedisError, server_program

MiB = 2**20


@pytest.fixture
def server() -> Iterator[EmbeddedRedis]:
    started = EmbeddedRedis(8 * MiB)
    yield started
    started.close()


def client_of(server: EmbeddedRedis) -> redis.Redis:
    return redis.Redis.from_url(server.url, protocol=2)


def socket_of(server: EmbeddedRedis) -> Path:
    return Path(server.url.removeprefix("unix://"))


def is_alive(pid: int) -> bool:
    """A zombie that nobody has waited for is dead."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until_dead(pid: int) -> None:
    deadline = time.monotonic() + 30
    while is_alive(pid):
        assert time.monotonic() < deadline, f"process {pid} is still alive"
        time.sleep(0.01)


def test_it_answers_as_soon_as_it_is_made(server: EmbeddedRedis) -> None:
    server.ping()
    with client_of(server) as client:
        client.set("a", b"1")
        assert client.get("a") == b"1"


def test_it_is_bounded_forgets_the_least_used_and_writes_nothing_to_disk(server: EmbeddedRedis) -> None:
    with client_of(server) as client:
        for number in range(20):
            client.set(str(number), bytes(MiB))
        memory, persistence = client.info("memory"), client.info("persistence")
    assert isinstance(memory, dict)
    assert isinstance(persistence, dict)
    assert (memory["maxmemory"], memory["maxmemory_policy"]) == (8 * MiB, "allkeys-lfu")
    assert (persistence["aof_enabled"], persistence["rdb_saves"]) == (0, 0)
    assert {path.name for path in socket_of(server).parent.glob("run-*/*")} == {"redis.log"}


@pytest.mark.parametrize(
    "command",
    [
        ("EVAL", "return 1", "0"),
        ("SCRIPT", "LOAD", "return 1"),
        ("FUNCTION", "LIST"),
        ("MODULE", "LIST"),
        ("CONFIG", "GET", "*"),
        ("CONFIG", "SET", "dir", "/tmp"),
        ("ACL", "LIST"),
        ("CLIENT", "LIST"),
        ("KEYS", "*"),
        ("FLUSHALL",),
        ("SAVE",),
        ("REPLICAOF", "127.0.0.1", "1"),
        ("SHUTDOWN",),
        ("SUBSCRIBE", "x"),
    ],
    ids=" ".join,
)
def test_it_does_nothing_but_what_a_cache_asks_of_it(server: EmbeddedRedis, command: tuple[str, ...]) -> None:
    with client_of(server) as client, pytest.raises(redis.exceptions.NoPermissionError):
        client.execute_command(*command)
    server.ping()


def test_only_this_user_can_reach_it(server: EmbeddedRedis) -> None:
    assert stat.S_IMODE(socket_of(server).parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(socket_of(server).stat().st_mode) == 0o700
    with client_of(server) as client:
        found = client.info("server")
        assert isinstance(found, dict)
        assert found["tcp_port"] == 0


def test_closing_ends_it_and_removes_its_folder() -> None:
    server = EmbeddedRedis(8 * MiB)
    pid, folder = server.pid, socket_of(server).parent
    server.close()
    assert not is_alive(pid)
    assert not folder.exists()
    server.close()
    with pytest.raises(EmbeddedRedisError, match="ended"):
        server.ping()


def test_a_server_that_was_killed_is_noticed() -> None:
    server = EmbeddedRedis(8 * MiB)
    os.kill(server.pid, signal.SIGKILL)
    wait_until_dead(server.pid)
    with pytest.raises(EmbeddedRedisError):
        server.ping()
    server.close()


def test_a_given_folder_is_made_private_and_kept(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    server = EmbeddedRedis(8 * MiB, directory=folder)
    assert server.url == f"unix://{folder}/redis.sock"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    server.close()
    assert [path.name for path in folder.iterdir()] == ["redis.sock"]


def test_a_second_server_in_a_folder_replaces_the_first_and_survives_its_end(tmp_path: Path) -> None:
    folder = tmp_path / "x"
    first = EmbeddedRedis(8 * MiB, directory=folder)
    second = EmbeddedRedis(8 * MiB, directory=folder)
    with client_of(second) as client:
        client.set("a", b"1")
        first.close()
        client.connection_pool.disconnect()
        assert client.get("a") == b"1"
    second.ping()
    second.close()


def test_what_killed_owners_left_is_swept_and_what_is_young_is_not(tmp_path: Path) -> None:
    folder = tmp_path / "x"
    folder.mkdir(mode=0o700)
    for name in ("run-old", "run-young", "else"):
        (folder / name).mkdir()
        (folder / name / "redis.log").touch()
    for name in ("run-old", "else"):
        os.utime(folder / name, (0, 0))
    EmbeddedRedis(8 * MiB, directory=folder).close()
    assert {path.name for path in folder.iterdir()} == {"run-young", "else", "redis.sock"}


@pytest.mark.parametrize("mode", [0o755, 0o770, 0o707])
def test_a_folder_that_others_can_enter_is_refused(tmp_path: Path, mode: int) -> None:
    folder = tmp_path / "open"
    folder.mkdir()
    folder.chmod(mode)
    with pytest.raises(EmbeddedRedisError, match="this user alone"):
        EmbeddedRedis(8 * MiB, directory=folder)


def test_a_link_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with pytest.raises(EmbeddedRedisError, match="this user alone"):
        EmbeddedRedis(8 * MiB, directory=tmp_path / "link")


def test_a_path_too_long_for_a_socket_is_told(tmp_path: Path) -> None:
    with pytest.raises(EmbeddedRedisError, match="too long"):
        EmbeddedRedis(8 * MiB, directory=tmp_path / ("x" * 100))


def test_a_program_that_does_not_start_is_told_with_its_reason(tmp_path: Path) -> None:
    script = tmp_path / "fails"
    script.write_text(
        "#!/bin/sh\nfor word; do test $log && echo out of luck > $word && exit 1; test $word = --logfile && log=1; done\n"
    )
    script.chmod(0o755)
    with pytest.raises(EmbeddedRedisError, match="out of luck"):
        EmbeddedRedis(8 * MiB, directory=tmp_path / "x", program=script)
    with pytest.raises(EmbeddedRedisError, match="did not start"):
        EmbeddedRedis(8 * MiB, directory=tmp_path / "x", program=tmp_path / "missing")
    assert list((tmp_path / "x").iterdir()) == []


def test_a_program_that_never_answers_is_ended(tmp_path: Path) -> None:
    script = tmp_path / "sleeps"
    script.write_text(f"#!/bin/sh\necho $$ > {tmp_path}/pid\nexec sleep 1000\n")
    script.chmod(0o755)
    with pytest.raises(EmbeddedRedisError, match="did not start"):
        EmbeddedRedis(8 * MiB, directory=tmp_path / "x", program=script, timeout_s=2)
    wait_until_dead(int((tmp_path / "pid").read_text()))


def test_it_outlives_the_thread_that_made_it() -> None:
    """On Linux the kernel's promise to end it is tied to a thread; that must not be the caller's."""
    made: list[EmbeddedRedis] = []
    thread = threading.Thread(target=lambda: made.append(EmbeddedRedis(8 * MiB)))
    thread.start()
    thread.join()
    made[0].ping()
    made[0].close()


OWNER = """
import sys, time
from cache.redis.embedded import EmbeddedRedis
server = EmbeddedRedis(8 * 2**20)
print(server.pid, server.url.removeprefix("unix://"), flush=True)
{then}
"""


def owner(then: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", OWNER.format(then=then)], stdout=subprocess.PIPE, text=True)


def told(process: subprocess.Popen[str]) -> tuple[int, Path]:
    assert process.stdout is not None
    pid, path = process.stdout.readline().split()
    process.stdout.close()
    return int(pid), Path(path)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent has died")
def test_it_dies_with_an_owner_that_is_killed() -> None:
    process = owner("time.sleep(1000)")
    pid, path = told(process)
    assert is_alive(pid)
    process.kill()
    process.wait()
    wait_until_dead(pid)
    shutil.rmtree(path.parent)


@pytest.mark.parametrize("then", ["", "sys.exit(3)", "raise SystemExit", "del server"])
def test_it_ends_and_cleans_up_with_an_owner_that_forgets_to_close_it(then: str) -> None:
    process = owner(then)
    pid, path = told(process)
    process.wait()
    wait_until_dead(pid)
    assert not path.parent.exists()


def test_an_interrupt_from_the_terminal_is_not_for_it(server: EmbeddedRedis) -> None:
    assert os.getsid(server.pid) != os.getsid(os.getpid())


def test_without_the_package_the_machines_own_server_is_run_and_without_that_one_is_told_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "find_spec", dict[str, None]().get)
    monkeypatch.setenv("PATH", str(tmp_path))
    for name in ("redis-server", "valkey-server"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
        assert server_program() == tmp_path / name
    monkeypatch.setenv("PATH", "")
    with pytest.raises(EmbeddedRedisError, match=r"cache\.redis\.url"):
        server_program()

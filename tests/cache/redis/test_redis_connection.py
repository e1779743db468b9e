"""A whole exchange with a Redis server has a limit, whatever the server does with its time."""

import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import redis

from cache.redis.embedded import EmbeddedRedis
from cache.redis.private_socket import is_private
from cache.redis.redis_connection import MAX_CONNECTING, LimitedClient, Patience
from cache.redis.redis_tier import RedisTier

LIMIT_S = 0.3
PAUSE_S = 0.05  # between two bytes: well within what a single read may take

Talk = Callable[[socket.socket, threading.Event], None]


@contextmanager
def server(talk: Talk) -> Iterator[str]:
    """A loopback server that does with each connection what `talk` does. Its address, as a redis:// URL."""
    over = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threads: list[threading.Thread] = []

        def serve(connection: socket.socket) -> None:
            with connection, suppress(OSError):
                talk(connection, over)

        def accept() -> None:
            while not over.is_set():
                with suppress(OSError):
                    connection, _ = listener.accept()
                    threads.append(threading.Thread(target=serve, args=(connection,), daemon=True))
                    threads[-1].start()

        accepting = threading.Thread(target=accept, daemon=True)
        accepting.start()
        yield f"redis://127.0.0.1:{listener.getsockname()[1]}"
        over.set()
        listener.shutdown(socket.SHUT_RDWR)
        for thread in (accepting, *threads):
            thread.join(30)
            assert not thread.is_alive()


def dripping(connection: socket.socket, over: threading.Event) -> None:
    """Promises eight megabytes and sends them a byte at a time."""
    connection.recv(65536)
    connection.sendall(b"$8388608\r\n")
    while not over.wait(PAUSE_S):
        connection.sendall(b"x")


def dripping_greeting(connection: socket.socket, over: threading.Event) -> None:
    """Takes as long over the answer to AUTH."""
    while not over.wait(PAUSE_S):
        connection.sendall(b"+")


def swallowing_slowly(connection: socket.socket, over: threading.Event) -> None:
    """Reads what it is sent a little at a time."""
    while not over.wait(PAUSE_S) and connection.recv(1024):
        pass


def taken(act: Callable[[], object]) -> float:
    began = time.monotonic()
    act()
    return time.monotonic() - began


MUCH_LONGER = 20
"""A limit that starts anew with each byte would take thousands of times as long, or days."""


@pytest.fixture
def one_read() -> float:
    """What a server that says nothing at all costs, on this machine now: an exchange may take no longer."""

    def silent(connection: socket.socket, over: threading.Event) -> None:
        over.wait()

    with server(silent) as url:
        client = LimitedClient(url, Patience(LIMIT_S))
        seconds = taken(lambda: failing(client))
        client.close()
    return seconds


def failing(client: LimitedClient, *command: str | bytes) -> None:
    with pytest.raises(redis.RedisError):
        client.ask([command or ("GET", "a")])


@pytest.mark.parametrize("talk", [dripping, dripping_greeting])
def test_a_server_that_drips_bytes_takes_no_longer_than_one_that_says_nothing(talk: Talk, one_read: float) -> None:
    with server(talk) as url:
        client = LimitedClient(url.replace("redis://", "redis://:password@"), Patience(LIMIT_S))
        assert taken(lambda: failing(client)) < MUCH_LONGER * one_read  # a byte each time would take days
        client.close()


def test_a_write_that_is_taken_a_little_at_a_time_ends_too(one_read: float) -> None:
    with server(swallowing_slowly) as url:
        client = LimitedClient(url, Patience(LIMIT_S))
        value = bytes(32 * 2**20)
        assert taken(lambda: failing(client, "SET", "a", value)) < MUCH_LONGER * one_read
        client.close()


def test_a_handshake_that_drips_ends_too(one_read: float) -> None:
    def talk(connection: socket.socket, over: threading.Event) -> None:
        connection.recv(65536)
        connection.sendall(b"\x16\x03\x03\x40\x00")  # a TLS record of 16 KiB begins
        while not over.wait(PAUSE_S):
            connection.sendall(b"\x02")

    with server(talk) as url:
        client = LimitedClient(url.replace("redis://", "rediss://") + "?ssl_cert_reqs=none", Patience(LIMIT_S))
        assert taken(lambda: failing(client)) < MUCH_LONGER * one_read
        client.close()


def test_a_name_that_is_not_resolved_ends_too_and_not_many_threads_wait_for_it(
    one_read: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolver = threading.Event()

    def hang(*_: object) -> list[object]:
        resolver.wait()
        return []

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    client = LimitedClient("redis://nowhere.invalid", Patience(LIMIT_S))
    before = threading.active_count()
    for _ in range(6):
        assert taken(lambda: failing(client)) < MUCH_LONGER * one_read
    assert threading.active_count() - before == 4
    resolver.set()
    client.close()


def test_a_connection_that_comes_when_its_time_is_just_over_is_used_or_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its exchange ends between the start of connecting and the wait for it."""

    def start_late(thread: threading.Thread) -> None:
        start(thread)
        thread.join()
        clock[0] += LIMIT_S

    start, clock = threading.Thread.start, [0.0]
    with socket.create_server(("127.0.0.1", 0)) as listening:
        client = LimitedClient(f"redis://127.0.0.1:{listening.getsockname()[1]}", Patience(LIMIT_S))
        monkeypatch.setattr(threading.Thread, "start", start_late)
        monkeypatch.setattr(time, "monotonic", lambda: clock[0])
        with pytest.raises(redis.TimeoutError):
            client.ask([("PING",)])
        monkeypatch.undo()
        listening.settimeout(LIMIT_S)
        with listening.accept()[0] as accepted:
            accepted.settimeout(LIMIT_S)
            assert accepted.recv(1) == b""  # closed at the other end
        client.close()


def test_a_system_without_threads_for_a_while_is_connected_from_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_more(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with socket.create_server(("127.0.0.1", 0)) as listening:
        client = LimitedClient(f"redis://127.0.0.1:{listening.getsockname()[1]}", Patience(LIMIT_S))
        with monkeypatch.context() as without_threads:
            without_threads.setattr(threading.Thread, "start", no_more)
            for _ in range(MAX_CONNECTING + 1):
                with pytest.raises(RuntimeError, match="thread"):
                    client.ask([("PING",)])
        with pytest.raises(redis.TimeoutError):  # it is connected, and waits for an answer
            client.ask([("PING",)])
        listening.settimeout(LIMIT_S)
        listening.accept()[0].close()
        client.close()


def test_bytes_that_come_fast_enough_are_waited_for() -> None:
    """Eight pieces with pauses that together are longer than the limit for none."""

    def talk(connection: socket.socket, over: threading.Event) -> None:
        connection.recv(65536)
        connection.sendall(b"$8388608\r\n")
        for _ in range(8):
            over.wait(PAUSE_S)
            connection.sendall(bytes(2**20))
        connection.sendall(b"\r\n")
        over.wait()

    with server(talk) as url:
        client = LimitedClient(url, Patience(0.2, slowest_bytes_per_s=1e6))
        assert client.ask([("GET", "a")]) == [bytes(8 * 2**20)]
        client.close()


def test_an_error_that_quotes_the_password_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    def talk(connection: socket.socket, over: threading.Event) -> None:
        while words := connection.recv(65536):
            connection.sendall(b"-ERR unknown command, with args beginning with: " + words.replace(b"\r\n", b" ") + b"\r\n")

    with server(talk) as url, caplog.at_level(logging.DEBUG):
        tier = RedisTier(url.replace("redis://", "redis://:hunter2secret@"), patience=Patience(LIMIT_S))
        for _ in range(5):
            tier.get_many(["a"])
        tier.close()
    assert "does not answer" in caplog.text
    assert "hunter2secret" not in caplog.text


# ---- a server of our own ----


def test_only_a_unix_socket_can_be_private() -> None:
    with pytest.raises(ValueError, match="unix"):
        LimitedClient("redis://127.0.0.1", Patience(), private=Path)


def test_a_server_in_a_folder_that_others_may_enter_is_not_talked_to(tmp_path: Path) -> None:
    folder = tmp_path / "x"
    own = EmbeddedRedis(8 * 2**20, directory=folder)
    where = [folder / "redis.sock"]
    client = LimitedClient(own.url, Patience(), private=lambda: where[0])
    assert client.ask([("PING",)]) == [True]
    client.close()
    folder.chmod(0o755)
    failing(client, "PING")
    folder.chmod(0o700)
    (tmp_path / "link").symlink_to(folder)
    where[0] = tmp_path / "link" / "redis.sock"
    failing(client, "PING")
    where[0] = folder / "redis.sock"
    assert client.ask([("PING",)]) == [True]
    client.close()
    own.close()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder away, or be somebody else")
def test_somebody_elses_folder_and_somebody_elses_server_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "x"
    folder.mkdir(mode=0o700)
    assert is_private(folder)
    os.chown(folder, 12345, 12345)
    assert not is_private(folder)
    os.chown(folder, 0, 0)
    (listens, tell), (over, end) = os.pipe(), os.pipe()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "s"))
        child = os.fork()
        if child == 0:
            os.setresuid(12345, 12345, 12345)
            listener.listen()  # from now on it is theirs
            os.write(tell, b"x")
            os.read(over, 1)
            os._exit(0)
        os.read(listens, 1)
        client = LimitedClient(f"unix://{folder}/s", Patience(5), private=lambda: folder / "s")
        with pytest.raises(redis.RedisError, match="user 12345"):
            client.ask([("PING",)])
        client.close()
        os.write(end, b"x")
        os.waitpid(child, 0)
    for pipe in (listens, tell, over, end):
        os.close(pipe)


def test_a_folder_in_one_where_others_may_rename_it_is_not_private(tmp_path: Path) -> None:
    above = tmp_path / "open"
    (above / "x").mkdir(mode=0o700, parents=True)
    assert is_private(above / "x")
    above.chmod(0o777)
    assert not is_private(above / "x")
    above.chmod(0o1777)
    assert is_private(above / "x")
    assert not is_private(above / "missing")


def test_a_folder_behind_a_link_is_as_private_as_all_that_leads_there(tmp_path: Path) -> None:
    above = tmp_path / "open"
    (above / "mine" / "x").mkdir(mode=0o700, parents=True)
    (tmp_path / "link").symlink_to(above / "mine")
    (tmp_path / "far").symlink_to("link")
    for path in (tmp_path / "link" / "x", tmp_path / "far" / "x"):
        assert is_private(path)
        above.chmod(0o777)
        assert not is_private(path)
        above.chmod(0o700)
    (tmp_path / "loop").symlink_to("loop")
    assert not is_private(tmp_path / "loop" / "x")


@pytest.mark.skipif(os.getuid() != 0, reason="only root may give files away")
def test_a_folder_behind_somebody_elses_link_is_not_private(tmp_path: Path) -> None:
    (tmp_path / "mine" / "x").mkdir(mode=0o700, parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "mine")
    os.chown(tmp_path / "link", 12345, 12345, follow_symlinks=False)
    assert not is_private(tmp_path / "link" / "x")

"""A port for a server that is started a little later. Decides which are safe to wait for."""

import random
import socket
from contextlib import suppress


def free_port() -> int:
    """A port on loopback that nobody listens on right now, and none of those that the system gives whoever asks for any (Linux: from 32768
    on), or Ray its workers (up to 19999): some time passes until it is taken."""
    while True:
        port = random.randrange(20_000, 32_768)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port

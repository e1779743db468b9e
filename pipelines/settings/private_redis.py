"""Where an embedded Redis server of one application is, on the machine that asks: the same for every process of this user there.

Decides the folder's name. That it is this user's alone, whoever uses it checks (`cache/redis/private_socket.py`).
"""

import hashlib
from pathlib import Path
from urllib.parse import quote

from pipelines.settings.environment import runtime_directory


def embedded_name(app_name: str, instance: str = "") -> str:
    """Of the server, which every machine puts into a folder of its own. `instance`: which of an application's several."""
    named = f"{app_name}\0{instance}" if instance else app_name
    return hashlib.sha256(named.encode()).hexdigest()[:8]


def embedded_directory(name: str) -> Path:
    """On this machine."""
    above = runtime_directory()
    return above.with_name(f"{above.name}-{name}")


def socket_path(name: str) -> Path:
    """On this machine, now."""
    return embedded_directory(name) / "redis.sock"


def socket_url(name: str) -> str:
    """On this machine, now."""
    return f"unix://{quote(str(socket_path(name)))}"

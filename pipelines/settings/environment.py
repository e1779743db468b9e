"""What this process finds around it that a configuration only names: secrets, in environment variables and files, and the user's folder
for what lasts as long as the user is here.

Decides what a secret may be: white space around it is forgiven (files and shells leave newlines), one that could be guessed is not. A
secret stands in no configuration, which Serve shows to whoever may look, and in no message. The environment is read here and nowhere else.
"""

import os
from dataclasses import dataclass, field
from pathlib import Path

from cache.redis.private_socket import is_private
from stages.contract.errors import ConfigurationError
from stages.device.temporary_folder import temporary_folder

MIN_CHARS = 16
MAX_BYTES = 64 * 1024
MAX_BYTES_VARIABLE = "TRIPTYCH_PROXY_BODY_BYTES"
"""How many bytes of bodies one of Serve's proxies may hold at a time. Proxies are told nothing of a configuration."""

PROXY_BODY_BYTES = 2**30


@dataclass(frozen=True, slots=True)
class Secret:
    """Shown as ***, wherever it is printed. `text`: never empty, no white space around it."""

    text: str = field(repr=False)

    def __str__(self) -> str:
        return "***"

    def lines(self) -> "tuple[Secret, ...]":
        """Each a secret of its own; empty ones are none."""
        return tuple(Secret(line.strip()) for line in self.text.split("\n") if line.strip())


def secret_of(*, env: str | None, file: str | None, setting: str) -> Secret:
    """What the environment variable, or else the file, holds that a setting names. Raises `ConfigurationError`."""
    if env is not None:
        where, text = f"the environment variable {env}", os.environ.get(env)
        if text is None:
            raise ConfigurationError(f"{setting}: {where} is not set")
    else:
        where, text = f"the file {file}", _read(Path(str(file)), setting)
    if not text.strip():
        raise ConfigurationError(f"{setting}: {where} is empty")
    return Secret(text.strip())


def hard_to_guess(secret: Secret, setting: str) -> Secret:
    """The same. Raises `ConfigurationError` where it is too short."""
    if len(secret.text) < MIN_CHARS:
        raise ConfigurationError(
            f"{setting}: it has {len(secret.text)} characters, and whoever tries would guess it; at least {MIN_CHARS} "
            "(`openssl rand -hex 32` makes one)"
        )
    return secret


def proxy_body_bytes() -> int:
    """Raises `ConfigurationError`."""
    given = os.environ.get(MAX_BYTES_VARIABLE, "").strip() or str(PROXY_BODY_BYTES)
    if not (given.isascii() and given.isdecimal() and 0 < int(given) < 2**50):
        raise ConfigurationError(
            f"the environment variable {MAX_BYTES_VARIABLE} must be a number of bytes, such as {PROXY_BODY_BYTES}"
        )
    return int(given)


def runtime_directory() -> Path:
    """The user's own folder for sockets (XDG_RUNTIME_DIR, or where systemd has it); where there is none, or others could reach it, a
    name in the machine's temporary folder, yet to be made."""
    for folder in (os.environ.get("XDG_RUNTIME_DIR"), f"/run/user/{os.getuid()}"):
        if folder and os.path.isabs(folder) and is_private(Path(folder)):
            return Path(folder) / "triptych"
    return temporary_folder() / f"triptych-{os.getuid()}"


def _read(path: Path, setting: str) -> str:
    try:
        with path.expanduser().open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigurationError(f"{setting}: the file {path} cannot be read: {error.strerror}") from None
    if len(data) > MAX_BYTES:
        raise ConfigurationError(f"{setting}: the file {path} is no secret: it has over {MAX_BYTES} bytes")
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise ConfigurationError(f"{setting}: the file {path} is not text in UTF-8") from None

"""Logs as JSON, an object a line, of Triptych's own loggers. Decides the fields, not what is logged. In a log of text these loggers stay as
whoever runs the process has them.
"""

import json
import logging
import sys
import time
from contextvars import ContextVar
from logging.handlers import MemoryHandler
from typing import Any, Literal

from stages.concurrency.thread_pool import TENANT

LOGGERS = ("triptych", "pipelines", "stages", "cache")
SERVE = "ray.serve"
REQUEST_ID_NOW: ContextVar[str] = ContextVar("request_id", default="")
"""Of the request that is being answered here."""
_USUAL = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}


class JsonFormatter(logging.Formatter):
    """`replica`: this process's name. What is logged with `extra` stands beside the rest."""

    def __init__(self, replica: str) -> None:
        super().__init__()
        self._replica = replica

    def format(self, record: logging.LogRecord) -> str:
        seconds, milliseconds = time.gmtime(record.created), int(record.msecs)
        told: dict[str, Any] = {
            "time": f"{time.strftime('%Y-%m-%dT%H:%M:%S', seconds)}.{milliseconds:03d}Z",
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            "replica": self._replica,
            "request_id": REQUEST_ID_NOW.get(),
            "tenant": TENANT.get(),
        }
        told |= {name: value for name, value in vars(record).items() if name not in _USUAL and value is not None}
        if record.exc_info:
            told["exception"] = self.formatException(record.exc_info)
        return json.dumps({name: value for name, value in told.items() if value != ""}, default=str, ensure_ascii=False)


class LogFormat:
    """How this process writes its log, as the configuration last said. A replica of Ray Serve has its standard error in Serve's own log:
    there everything goes to that, Serve's lines, too; elsewhere to standard error."""

    def __init__(self, replica: str) -> None:
        self._formatter = JsonFormatter(replica)
        self._loggers: list[tuple[logging.Logger, int, bool, list[logging.Handler]]] = []
        self._formats: list[tuple[logging.Handler, logging.Formatter | None]] = []

    def follow(self, logs: Literal["text", "json"]) -> None:
        if logs == "text":
            self.close()
        elif not self._loggers:
            self._begin()

    def _begin(self) -> None:
        handlers = _written_by(logging.getLogger(SERVE)) or [logging.StreamHandler(sys.stderr)]
        self._formats = [(handler, handler.formatter) for handler in handlers]
        for handler in handlers:
            handler.setFormatter(self._formatter)
        for logger in map(logging.getLogger, LOGGERS):
            added = [handler for handler in handlers if handler not in logger.handlers]
            self._loggers.append((logger, logger.level, logger.propagate, added))
            for handler in added:
                logger.addHandler(handler)
            logger.setLevel(logging.INFO)
            logger.propagate = False

    def close(self) -> None:
        """As it was before."""
        for logger, level, propagate, added in self._loggers:
            for handler in added:
                logger.removeHandler(handler)
            logger.setLevel(level)
            logger.propagate = propagate
        for handler, formatter in self._formats:
            handler.setFormatter(formatter)
        self._loggers, self._formats = [], []


def _written_by(logger: logging.Logger) -> list[logging.Handler]:
    """What writes the logger's lines in the end, behind what only gathers them."""
    return [handler.target or handler if isinstance(handler, MemoryHandler) else handler for handler in logger.handlers]

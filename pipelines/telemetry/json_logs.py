"""Logs as JSON, an object a line, of Triptych's own loggers. Decides the fields, not what is logged. In a log of text these loggers stay as
whoever runs the process has them.
"""

import json
import logging
import sys
import time
from contextvars import ContextVar
from typing import Any, Literal

from stages.concurrency.thread_pool import TENANT

LOGGERS = ("triptych", "pipelines", "stages", "cache")
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
    """How this process's own loggers write, as the configuration last said."""

    def __init__(self, replica: str) -> None:
        self._handler = logging.StreamHandler(sys.stderr)
        self._handler.setFormatter(JsonFormatter(replica))
        self._before: dict[str, tuple[int, bool]] = {}

    def follow(self, logs: Literal["text", "json"]) -> None:
        if logs == "json" and not self._before:
            for name in LOGGERS:
                logger = logging.getLogger(name)
                self._before[name] = (logger.level, logger.propagate)
                logger.addHandler(self._handler)
                logger.setLevel(logging.INFO)
                logger.propagate = False
        elif logs == "text":
            self.close()

    def close(self) -> None:
        for name, (level, propagate) in self._before.items():
            logger = logging.getLogger(name)
            logger.removeHandler(self._handler)
            logger.setLevel(level)
            logger.propagate = propagate
        self._before = {}

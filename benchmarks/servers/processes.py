"""Processes of a server that runs on this machine: found by their titles, or by a mark in the environment of all that the server
starts, wherever they hang in the tree of processes. Ends none.
"""

from __future__ import annotations

import re
from contextlib import suppress

import psutil


def titled(title: str) -> list[psutil.Process]:
    """Those whose command line holds this."""
    return [process for process, line in _lines() if title in line]


def replicas(application: str, deployment: str) -> list[psutil.Process]:
    """Of a deployment of a configuration's application, each of whose deployments may be an application of its own."""
    title = re.compile(rf"ServeReplica:{re.escape(application)}(-[^:]*)?:{re.escape(deployment)}\b(?!-)")
    return [process for process, line in _lines() if title.search(line)]


def marked(variable: str, value: str) -> dict[int, psutil.Process]:
    """By number, those that have this in their environment. A process of somebody else tells nothing and is left out."""
    found = {}
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get(variable) == value:
                found[process.pid] = process
    return found


def command_line(process: psutil.Process) -> str:
    """ "" of a process that has ended."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def _lines() -> list[tuple[psutil.Process, str]]:
    return [(process, " ".join(process.info["cmdline"] or [])) for process in psutil.process_iter(["cmdline"])]

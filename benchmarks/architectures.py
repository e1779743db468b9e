"""`python -m benchmarks.architectures`: which architectures answer as the library's own `generate` does (about half an hour on two
cores).

Of every `model_type` that `transformers` has a causal language model for, a tiny checkpoint with random weights is saved, loaded as
any checkpoint is, and asked in chunks, beside others and after shared beginnings. Each ends as equal, as refused at load with a
reason, as not made (no tiny checkpoint can be had, or the library's own `generate` fails on it), or as wrong, which fails the run.
`--only NAME ...` asks some again and keeps what is known of the others. The table in docs/architectures.md is written from the
results. Each is asked in a process of its own, with a time limit.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from benchmarks.reporting.command import tell
from benchmarks.reporting.report import ROOT, Report, Value, rows_of
from tests.stages.llm.library.oracle import Outcome, Verdict, judged
from tests.stages.llm.library.tiny_architectures import VARIANTS

PAGE = ROOT / "docs" / "architectures.md"
LIMIT_S = 400
Rows = Mapping[str, dict[str, Value]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="ask these again, and keep what is known of the others")
    asked = parser.parse_args().only
    classes = classes_by_name()
    unknown = sorted(set(asked or ()) - set(classes))
    if unknown:
        sys.exit(f"transformers has no causal language model for {', '.join(unknown)}")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    rows = {**known_rows()} if asked else {}
    try:
        for name, outcome in _outcomes(asked or list(classes)):
            rows[name] = _row(name, classes[name], outcome)
            tell(f"{name}: {outcome.verdict} {outcome.reason}")
    finally:  # a run that is broken off keeps what it found; --only asks the rest
        rows = {name: rows[name] for name in classes if name in rows}
        Report("architectures", {"dtype": "float32"}, list(rows.values())).publish()
        PAGE.write_text(page(rows))
    wrong = [name for name, row in rows.items() if row["verdict"] == Verdict.WRONG]
    sys.exit(f"wrong: {', '.join(wrong)}" if wrong else 0)


def classes_by_name() -> dict[str, str]:
    """The class of every `model_type`, and of what is asked beside them."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as NAMES

    classes = {name: found if isinstance(found, str) else found[0] for name, found in NAMES.items()}
    return classes | {name: classes[kind] for name, (kind, _) in VARIANTS.items()}


def known_rows() -> Rows:
    """What the last run found, by architecture."""
    return {str(row["architecture"]): row for row in rows_of("architectures")}


def page(rows: Rows) -> str:
    """The page in docs/."""
    counts = {verdict: sum(row["verdict"] == verdict for row in rows.values()) for verdict in Verdict}
    lines = [
        "# Architectures of language models",
        "",
        "Written by `python -m benchmarks.architectures`, which asks tiny checkpoints of every architecture that `transformers`",
        "has a causal language model for, with random weights, in float32: in chunks, beside others, after shared beginnings.",
        "*equal*: every token is the one that the library's own `generate` gives for the request alone. *refused*: the server does",
        "not start, and says why. *not made*: no tiny checkpoint could be had. Whatever the architecture, a model is also",
        "checked when it is loaded (`stages/llm/model/self_check.py`), so one that is not in this list is served right or refused, too.",
        "",
        ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count) + ".",
        "",
        "| architecture | class | | reason |",
        "|---|---|---|---|",
        *(f"| {row['architecture']} | {row['class']} | {row['verdict']} | {_cell(row['reason'])} |" for row in rows.values()),
    ]
    return "\n".join(lines) + "\n"


def _cell(text: Value) -> str:
    return str(text or "").replace("|", "\\|").replace("<", "&lt;")


def _row(name: str, kind: str, outcome: Outcome) -> dict[str, Value]:
    return {"architecture": name, "class": kind, "verdict": outcome.verdict.value, "reason": outcome.reason}


@dataclass(frozen=True, slots=True)
class _Asked:
    name: str
    process: BaseProcess
    deadline: float


def _outcomes(names: Sequence[str]) -> Iterator[tuple[str, Outcome]]:
    """As they come, as many at once as there are cores."""
    context = multiprocessing.get_context("fork")  # the libraries are imported once
    _import_all()
    waiting, running = list(names), dict[Connection, _Asked]()
    while waiting or running:
        while waiting and len(running) < len(os.sched_getaffinity(0)):
            ours, theirs = context.Pipe(duplex=False)
            process = context.Process(target=_ask, args=(waiting[0], theirs))
            process.start()
            theirs.close()
            running[ours] = _Asked(waiting.pop(0), process, time.monotonic() + LIMIT_S)
        done = wait(list(running), timeout=1.0)
        for ours, asked in list(running.items()):
            if ours in done or time.monotonic() > asked.deadline:
                del running[ours]
                yield asked.name, _received(ours, asked, answered=ours in done)


def _received(ours: Connection, asked: _Asked, *, answered: bool) -> Outcome:
    try:
        if answered:
            found: Outcome = ours.recv()
            return found
        return Outcome(Verdict.NOT_MADE, f"took more than {LIMIT_S} s")
    except EOFError:
        return Outcome(Verdict.NOT_MADE, "its process died")
    finally:
        asked.process.kill()
        asked.process.join()


def _ask(name: str, answer: Any) -> None:
    import torch

    torch.set_num_threads(1)
    kind, more = VARIANTS.get(name, (name, {}))
    with tempfile.TemporaryDirectory(prefix="architecture-") as folder:
        answer.send(judged(kind, Path(folder), **more))


def _import_all() -> None:
    import transformers
    from transformers import AutoModelForCausalLM

    from tests.stages.llm.library.tiny_architectures import tiny_config

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    AutoModelForCausalLM.from_config(tiny_config("llama"))


if __name__ == "__main__":
    main()

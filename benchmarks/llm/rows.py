"""A row of an `Llm` for text alone, with no engine around it. Decides nothing."""

from __future__ import annotations

from stages.contract.recipe import NO_INPUTS
from stages.llm.llm import Llm
from stages.llm.messages import Generate
from stages.llm.row import LlmRow


def started(llm: Llm, work: Generate) -> LlmRow:
    return llm.start(work, llm.prepare(work, NO_INPUTS))

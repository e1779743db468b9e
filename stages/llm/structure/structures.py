"""What a stage's answers are held to, compiled for its vocabulary, and kept for those that are held to the same.

Decides how many are kept, and for whom: only for the same salt, since who compiles sooner than another learns what was asked before.
Any thread; compiling takes a millisecond or two, seconds at worst.
"""

import json
from concurrent.futures import ThreadPoolExecutor
from threading import Lock

from cachetools import LRUCache
from llguidance import LLMatcher

from stages.contract.errors import InvalidRequest
from stages.device.cores import available_cores
from stages.llm.messages import Constraint, ConstraintKind
from stages.llm.structure.checking import check, refusal
from stages.llm.structure.grammars import grammar
from stages.llm.structure.limits import MAX_KEPT, parser_limits
from stages.llm.structure.row_structure import Start, Workers, dead_end
from stages.llm.structure.vocabulary import Vocabulary

CORES_A_THREAD = 4
"""Of a machine's cores, for masks: on a small one the model needs them."""


class Structures:
    """Of one stage."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        num_threads = max(1, available_cores() // CORES_A_THREAD)
        self._workers = Workers(ThreadPoolExecutor(num_threads, thread_name_prefix="masks of tokens"), num_threads)
        self._kept: LRUCache[tuple[str, Constraint], Start] = LRUCache(MAX_KEPT)
        self._lock = Lock()

    def start(self, constraint: Constraint, salt: str) -> Start:
        """Raises `InvalidRequest` for what can't be enforced, or not with this vocabulary."""
        with self._lock:
            kept = self._kept.get((salt, constraint))
        if kept is None:
            kept = self._compiled(constraint)
            with self._lock:
                self._kept[salt, constraint] = kept
        return kept

    def _compiled(self, constraint: Constraint) -> Start:
        vocabulary = self._vocabulary
        if not vocabulary.is_sound:
            raise InvalidRequest(
                "constraint can't be enforced: this model's tokens have no text of their own", param="constraint"
            )
        readable = check(constraint)
        text = grammar(readable, drops_space=vocabulary.drops_space)
        matcher = LLMatcher(vocabulary.tokenizer, text, log_level=0, limits=parser_limits())
        if matcher.is_error():
            schema = json.loads(constraint.text) if constraint.kind is ConstraintKind.JSON_SCHEMA else None
            raise refusal(matcher.get_error(), schema, "constraint")
        mask = vocabulary.mask(matcher)
        if matcher.is_error():
            raise dead_end(matcher.get_error())
        before = None if constraint.may_end_before else vocabulary.mask_without_ends()
        return Start(vocabulary, matcher, mask, self._workers, frozenset(constraint.after), before)

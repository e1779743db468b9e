"""How many plans of its computations oneDNN keeps, with which torch multiplies on CPUs.

There is a plan, of up to a megabyte, for every size of every operation; torch keeps 1024 (each thread, of each kind of operation), and the
library as many. Where sizes vary from step to step (tokens of prompts), that is as many as there is room for, each hardly used again: a
process grows by hundreds of megabytes over its first requests. A step's own few operations are found again among fewer. Where every layer
has a size of its own (a U-Net), more are needed: of too few each would be planned again in every step. (`python -m benchmarks.soak` sees
whether memory grows.)
"""

import os
import platform

KEPT = 128
PLANS_A_ROW = 16
"""A step of so many rows has about five sizes of its own, and the next one may have other rows."""

OWN, OF_THE_LIBRARY, ONCE = "LRU_CACHE_CAPACITY", "ONEDNN_PRIMITIVE_CACHE_CAPACITY", "DNNL_PRIMITIVE_CACHE_CAPACITY"
"""torch's (by ideep, which it multiplies through), the library's, and that by its earlier name. Read when the first computation is
planned."""


def keep_few_plans(num_rows: int = 1) -> None:
    """In this process, from now on, where it has computed nothing yet, and has steps of up to so many rows. What the environment says
    already stands. Nothing on other than x86-64, where torch keeps hardly any."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return
    kept = str(max(KEPT, PLANS_A_ROW * num_rows))
    os.environ.setdefault(OWN, kept)
    if ONCE not in os.environ:
        os.environ.setdefault(OF_THE_LIBRARY, kept)

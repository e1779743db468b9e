"""How many of its computations' plans oneDNN keeps, with which torch multiplies on CPUs.

There is a plan, up to a megabyte each, for every size of every operation, and 1024 are kept, both by torch and by the library. Where
sizes vary from step to step (tokens of prompts), that is as many as there is room for, each hardly used again: SmolLM2's process grows by
300 MB in its first few hundred requests. A step's own few operations are found again among fewer as well. Where every layer has a size of
its own and the batch is all that varies (a U-Net), as many are needed: each would be planned again in each step (up to a third of its
time). (`python -m benchmarks.soak` sees whether memory grows.)
"""

import os

KEPT = 128
VARIABLES = ("LRU_CACHE_CAPACITY", "ONEDNN_PRIMITIVE_CACHE_CAPACITY")
"""torch's (by ideep, which it multiplies through) and the library's own, of plans; read when the first computation is planned."""


def keep_few_plans() -> None:
    """In this process, from now on, where it has computed nothing yet. What the environment says already stands."""
    for name in VARIABLES:
        os.environ.setdefault(name, str(KEPT))

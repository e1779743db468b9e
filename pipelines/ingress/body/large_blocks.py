"""Has the system take back what large bodies leave as soon as it is freed. glibc keeps what was freed in pieces, in as many arenas as
threads have asked for some, and takes more beside it: after some hundred bodies of 31 MiB a process that holds nothing was seen to keep
3 GB, and more after each hundred. Bodies come in pieces of 64 KiB; from `MIN_BYTES` on a piece is a mapping of its own. (`malloc_trim`
gives all back, and was seen to hold up the event loop for a quarter of a second.)

For the whole process. Elsewhere than on Linux with glibc this does nothing: there is no such call.
"""

import ctypes

MIN_BYTES = 32 * 1024
M_MMAP_THRESHOLD = -3  # of malloc.h


def return_large_blocks() -> bool:
    """Whether the system heard it."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, MIN_BYTES))

"""The threads of a process that answers HTTP requests: a few for each kind of work, made once, and handed to whoever does it.

Decides how many of each, and how many may wait; there is no pool for everything. Most of this work holds the interpreter's lock, so
more threads would do it no faster, only keep the event loop waiting for the lock: small numbers are meant. Threads start when they are
first needed.
"""

from dataclasses import dataclass

from stages.concurrency.thread_pool import DaemonThreads, ThreadPool, TwoLanes

MAX_WAITING = 4096
"""Of one kind: of as many requests as a process takes (`ingress.max_ongoing_requests`), several images each. What waits is held in
memory already; what it weighs is bounded elsewhere."""

OFF_LOOP_BYTES = 64 * 1024
OFF_LOOP_IMAGE_BYTES = 16 * 1024
OFF_LOOP_PROMPT_CHARS = 512
"""What is smaller takes a fraction of a millisecond, and is done at once: where every core computes, a thread of its own waits longer
than that to be woken."""

SMALL_BODY_BYTES = 1024 * 1024
SMALL_PROMPT_CHARS = 16 * 1024
SMALL_IMAGE_PIXELS = 1024 * 1024
MAX_LOOK_UPS = 64
"""Names that are looked up at once. The system's resolver gives up by itself, after ten to thirty seconds as a rule."""


@dataclass(frozen=True, slots=True)
class Threads:
    """`parsing`: large bodies, by their bytes. `images`: strangers' images, looked at, by their bytes.
    `decoding`: and shrunk. `prompts`: chat
    templates and tokenizers, by characters. `digests`: names of images, by
    their bytes. `painting`: finished images to files, by pixels. `answers`:
    large answers to bytes. `names`: the system's resolver. `kept`: what clients come back for, where another process has it."""

    parsing: TwoLanes
    images: TwoLanes
    decoding: ThreadPool
    prompts: TwoLanes
    digests: TwoLanes
    painting: TwoLanes
    answers: ThreadPool
    names: DaemonThreads
    kept: ThreadPool

    @classmethod
    def new(cls) -> "Threads":
        return cls(
            parsing=TwoLanes(
                "reading bodies", threads=1, max_waiting=MAX_WAITING, small=SMALL_BODY_BYTES, inline=OFF_LOOP_BYTES
            ),
            images=TwoLanes(
                "reading images", threads=2, max_waiting=MAX_WAITING, small=SMALL_BODY_BYTES, inline=OFF_LOOP_IMAGE_BYTES
            ),
            decoding=ThreadPool("decoding images", threads=2, max_waiting=MAX_WAITING),
            prompts=TwoLanes(
                "reading prompts",
                threads=2,
                max_waiting=MAX_WAITING,
                small=SMALL_PROMPT_CHARS,
                inline=OFF_LOOP_PROMPT_CHARS,
            ),
            digests=TwoLanes(
                "naming images", threads=2, max_waiting=MAX_WAITING, small=SMALL_BODY_BYTES, inline=OFF_LOOP_BYTES
            ),
            painting=TwoLanes("encoding images", threads=2, max_waiting=MAX_WAITING, small=SMALL_IMAGE_PIXELS),
            answers=ThreadPool("writing answers", threads=2, max_waiting=MAX_WAITING),
            names=DaemonThreads("looking up names", max_threads=MAX_LOOK_UPS, is_shared=True),
            kept=ThreadPool("reading and writing what is kept", threads=4, max_waiting=MAX_WAITING),
        )

    def close(self) -> None:
        """What has not started never does; waits for nobody."""
        for pool in (
            self.parsing,
            self.images,
            self.decoding,
            self.prompts,
            self.digests,
            self.painting,
            self.answers,
            self.kept,
        ):
            pool.close()

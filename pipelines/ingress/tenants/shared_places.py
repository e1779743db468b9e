"""What HTTP replicas tell each other of the places that they hold for who was refused (`pipelines/routing/waitlist.py`): who comes back may
come to any of them, and all of them leave the room.

Decides how often: every `SYNC_S`; told is while anybody is refused. Who comes back sooner, and elsewhere, is taken for a newcomer. No
request waits for the store; without one that processes share (`cache.redis`), or that answers, each holds its own places alone. On one
event loop.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping

from cache.store import Store
from pipelines.ingress.kept.kept_values import KeptValues, Owner
from pipelines.ingress.tenants.between_processes import GONE_S, BetweenProcesses, JsonObject
from pipelines.routing.waitlist import Asked, Told, ToldPlace, Waitlist
from stages.concurrency.together import stopped
from stages.contract.errors import Overloaded

SYNC_S = 1.0
log = logging.getLogger("triptych.surface")
PLACES = "places"


class SharedPlaces:
    """`owner`: the server itself, with whose salt values are sealed; it may be set anew. `process`: as of `BetweenProcesses`."""

    def __init__(
        self,
        waitlist: Waitlist,
        values: KeptValues,
        owner: Owner,
        *,
        process: str | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._waitlist, self._values, self.owner, self._clock = waitlist, values, owner, clock
        self._between = BetweenProcesses(process)
        self._tending: asyncio.Task[None] | None = None

    def tend(self) -> None:
        """Tells and hears from now on. Idempotent."""
        if self._tending is None or self._tending.done():
            self._tending = asyncio.create_task(self._tend())

    async def close(self) -> None:
        """Others hold what this process held."""
        if self._tending is not None:
            await stopped(self._tending)
        with contextlib.suppress(Overloaded):
            await self.exchange()

    async def exchange(self) -> None:
        """Tells which places this process holds, and hears of the others'. Raises `Unavailable`."""
        if not self._values.is_shared:
            return
        own = self._waitlist.told(self._clock()) if self._waitlist.is_in_use(self._clock()) else None
        salt = self.owner.salt
        others = await self._values.ask(lambda store: self._exchanged(store, own, salt))
        self._waitlist.hear(others, self._clock(), own=self._between.process)

    async def _tend(self) -> None:
        while True:
            try:
                await self.exchange()
            except Overloaded:  # whose connection says so in the log
                pass
            except Exception:
                log.exception("places were not exchanged")
            await asyncio.sleep(SYNC_S)

    def _exchanged(self, store: Store, own: Told | None, salt: str) -> Mapping[str, Told]:
        if own is not None:
            self._between.write(store, PLACES, _document(own), GONE_S, salt)
        return self._between.read(store, PLACES, salt, _told)


def _document(told: Told) -> JsonObject:
    places = [
        [
            place.number,
            place.asked.key,
            place.asked.tenant,
            place.asked.is_urgent,
            round(place.in_s, 3),
            round(place.for_s, 3),
            dict(place.asked.takes),
        ]
        for place in told.places
    ]
    taken = {process: list(numbers) for process, numbers in told.taken.items()}
    return {"number": told.number, "places": places, "taken": taken}


def _told(document: JsonObject) -> Told:
    """Raises `ValueError`, `TypeError`, `KeyError` or `AttributeError` where it is none."""
    places = [
        ToldPlace(int(number), _asked(key, tenant, takes, is_urgent=is_urgent), float(in_s), float(for_s))
        for number, key, tenant, is_urgent, in_s, for_s, takes in document["places"]
    ]
    taken = {str(process): [int(number) for number in numbers] for process, numbers in document["taken"].items()}
    return Told(int(document["number"]), places, taken)


def _asked(key: object, tenant: int, takes: Mapping[str, float], *, is_urgent: object) -> Asked:
    return Asked(
        str(key), int(tenant), {str(stage): float(seconds) for stage, seconds in takes.items()}, is_urgent=bool(is_urgent)
    )

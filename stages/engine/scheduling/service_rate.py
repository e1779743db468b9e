"""How fast a device works, as far as it has been seen. Pure; knows no unit but the one that it is told."""


class ServiceRate:
    """How much work a device finishes in a second of being busy: an average that half forgets in `half_life_s` of it."""

    def __init__(self, half_life_s: float = 30.0) -> None:
        self._half_life_s = half_life_s
        self._work = 0.0
        self._seconds = 0.0

    def observe(self, work: float, seconds: float) -> None:
        decay = 0.5 ** (seconds / self._half_life_s)
        self._work = self._work * decay + work
        self._seconds = self._seconds * decay + seconds

    def seconds_for(self, work: float) -> float | None:
        """Busy seconds that `work` will take; None while nothing has been finished yet."""
        if self._work <= 0:
            return None
        return work * self._seconds / self._work

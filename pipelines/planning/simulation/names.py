"""Which names are remembered somewhere: the latest, up to a bound. Knows no values: in a simulation there are none."""

from collections import OrderedDict
from collections.abc import Iterable


class Names:
    """`most`: so many; 0: none."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._names: OrderedDict[int, None] = OrderedDict()
        self._held: frozenset[int] | None = frozenset()

    def uses(self, name: int) -> bool:
        """Whether it is there; then it is the latest."""
        if name not in self._names:
            return False
        self._names.move_to_end(name)
        return True

    def add(self, names: Iterable[int]) -> None:
        if not self.most:
            return
        for name in names:
            if name not in self._names:
                self._held = None
            self._names[name] = None
            self._names.move_to_end(name)
        while len(self._names) > self.most:
            self._names.popitem(last=False)

    @property
    def held(self) -> frozenset[int]:
        if self._held is None:
            self._held = frozenset(self._names)
        return self._held

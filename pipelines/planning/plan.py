"""What was planned, as values; and the same as JSON, for `triptych explain` and whoever draws it. Decides nothing."""

from dataclasses import asdict, dataclass
from typing import Any

from stages.contract.cost import Speed

KIND = "triptych-plan"


@dataclass(frozen=True, slots=True)
class PlannedStage:
    """A stage in a pool. `speed`: of one replica, on its part of the device, with the batch bound as `max_rows`. `busy`: the part of the
    pool's time that it is expected to take."""

    stage: str
    speed: Speed
    dtype: str
    busy: float

    @property
    def rows(self) -> int:
        return self.speed.max_rows


@dataclass(frozen=True, slots=True)
class PlannedPool:
    """`name`: of its deployment. `fraction`: of a device, for each replica. `utilisation`: expected, of the time of its replicas.
    `one_more`: requests a second that one replica more would bring, with all else as it is."""

    name: str
    device: str
    fraction: float
    replicas: int
    stages: tuple[PlannedStage, ...]
    utilisation: float
    one_more: float
    is_estimate: bool
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Share:
    """Of a class's items at a stage, so many a second go to a pool."""

    of_class: str
    stage: str
    pool: str
    items_per_s: float


@dataclass(frozen=True, slots=True)
class Kept:
    """A bound of a class's SLO, and what it comes to in full batches on the slowest way that the plan has for it."""

    setting: str
    bound_s: float
    expected_s: float


@dataclass(frozen=True, slots=True)
class PlannedClass:
    name: str
    rate: float
    bounds: tuple[Kept, ...] = ()


@dataclass(frozen=True, slots=True)
class DeviceUse:
    """`used`: devices with anything on them. `utilisation`: of the time of all there are. `one_more`: requests a second that another
    device of the type would bring; None: not asked. `layouts`: what shares a device, and how many devices look so."""

    device: str
    count: int
    used: int
    utilisation: float
    one_more: float | None
    layouts: tuple[tuple[int, tuple[str, ...]], ...] = ()


@dataclass(frozen=True, slots=True)
class Plan:
    """`rate`: requests a second of all classes at `target_utilisation`; with devices that never rest it would be `saturated_rate`. `goal`:
    "rate" or "cost"; `bound`: no plan has a higher rate (a lower cost an hour), `gap`: how far from it this one is, as a part of it."""

    goal: str
    rate: float
    target_utilisation: float
    bound: float
    gap: float
    cost_per_hour: float | None
    pools: tuple[PlannedPool, ...]
    classes: tuple[PlannedClass, ...]
    shares: tuple[Share, ...]
    devices: tuple[DeviceUse, ...]
    bottleneck: str
    how_one_more: str = ""
    reasons: tuple[str, ...] = ()

    @property
    def saturated_rate(self) -> float:
        return self.rate / self.target_utilisation

    @property
    def is_estimate(self) -> bool:
        return any(pool.is_estimate for pool in self.pools)

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "kind": KIND,
            "goal": self.goal,
            "rate": self.rate,
            "saturated_rate": self.saturated_rate,
            "target_utilisation": self.target_utilisation,
            "bound": self.bound,
            "gap": self.gap,
            "cost_per_hour": self.cost_per_hour,
            "is_estimate": self.is_estimate,
            "bottleneck": self.bottleneck,
            "one_more": {
                use.device: {"rate": use.one_more, "how": self.how_one_more}
                for use in self.devices
                if use.one_more is not None
            },
            "devices": [
                {"device": use.device, "count": use.count, "used": use.used, "utilisation": use.utilisation}
                | {"layouts": [{"devices": count, "pools": list(names)} for count, names in use.layouts]}
                for use in self.devices
            ],
            "pools": [_pool(pool) for pool in self.pools],
            "classes": [
                {"name": each.name, "rate": each.rate, "bounds": [asdict(kept) for kept in each.bounds]}
                for each in self.classes
            ],
            "shares": [
                {"class": share.of_class, "stage": share.stage, "pool": share.pool, "items_per_s": share.items_per_s}
                for share in self.shares
            ],
            "reasons": list(self.reasons),
        }


def _pool(pool: PlannedPool) -> dict[str, Any]:
    return {
        "pool": pool.name,
        "device": pool.device,
        "fraction": pool.fraction,
        "replicas": pool.replicas,
        "stages": [each.stage for each in pool.stages],
        "batch": {each.stage: each.rows for each in pool.stages},
        "dtype": {each.stage: each.dtype for each in pool.stages},
        "utilisation": pool.utilisation,
        "one_more_replica": pool.one_more,
        "is_estimate": pool.is_estimate,
        "reasons": list(pool.reasons),
    }

"""What tenants have used, as Prometheus' counters: by tenants and stages that the configuration names, so that there are no more series
than those. Knows no HTTP.
"""

from prometheus_client import CollectorRegistry, Counter

from pipelines.ingress.tenants.usage import Spent


class UsageCounts:
    """Since the process began."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._requests = Counter(
            "triptych_tenant_requests", "Requests of a tenant that were let in.", ("tenant",), registry=registry
        )
        self._refused = Counter(
            "triptych_tenant_refused", "Requests of a tenant that a quota refused.", ("tenant", "quota"), registry=registry
        )
        self._tokens = Counter(
            "triptych_tenant_tokens", "Tokens that a tenant's requests read and wrote.", ("tenant", "kind"), registry=registry
        )
        self._device_seconds = Counter(
            "triptych_tenant_device_seconds", "A tenant's part of devices' time.", ("tenant", "stage"), registry=registry
        )

    def add(self, tenant: str, spent: Spent, quota: str = "") -> None:
        """`quota`: which refused it."""
        if spent.requests:
            self._requests.labels(tenant).inc(spent.requests)
        if quota and spent.refused:
            self._refused.labels(tenant, quota).inc(spent.refused)
        for kind, tokens in (("input", spent.input_tokens), ("output", spent.output_tokens)):
            if tokens:
                self._tokens.labels(tenant, kind).inc(tokens)
        for stage, seconds in spent.device_s.items():
            self._device_seconds.labels(tenant, stage).inc(seconds)

"""How many replicas a deployment of stages should have, by what its engines have in hand. Ray Serve's controller asks.

Serve's own policy counts every request that a replica holds, also one that only waits for another stage's result; here only what is
queued or runs in the replicas' engines counts, and what waits at the callers for a replica. Serve applies bounds, delays and factors
to what is returned. It carries this module, by its value, to a process that may not have Triptych's code: it imports nothing else.
"""

from typing import Any

LOAD = "load"
"""What `Replica.record_autoscaling_stats` calls the number of items that its engines have in hand."""


def by_engines_load(context: Any) -> tuple[float, dict[str, Any]]:
    """From Serve's `AutoscalingContext` to a number of replicas (not yet whole), and the policy's state, of which it has none."""
    if context.current_num_replicas == 0:
        return context.target_num_replicas, {}
    loads = (context.aggregated_metrics or {}).get(LOAD, {})
    known = sum(loads.values()) + (context.total_queued_requests or 0.0)
    load = known if loads else context.total_num_requests  # where no replica has reported yet
    return load / context.config.target_ongoing_requests, {}

"""What machines and bounds of schedulers are tried with."""

import math

from hypothesis import strategies as st

from stages.contract.limits import BatchLimits
from stages.engine.scheduling.urgency import MAX_WEIGHT, MIN_WEIGHT

AGEING_S = 2.0
LONGEST_ABSENCE = 2 * MAX_WEIGHT / MIN_WEIGHT + 1  # steps per row that runs beside it

keys = st.sampled_from("xyz")
limits = st.builds(BatchLimits, st.integers(1, 5), st.sampled_from([1.0, 8.0, math.inf]))

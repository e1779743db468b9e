"""How many examples a fuzz test tries: a share of what the profile asks for (see `tests/conftest.py`)."""

from hypothesis import HealthCheck, settings

PLENTY = 100  # hypothesis' own number, for which the numbers in the tests are meant


def effort(examples: int = PLENTY) -> settings:
    """`examples` in `make test`, a quarter in `make check`, twice as many in each round of `make fuzz`."""
    asked = settings.default.max_examples if settings.default is not None else PLENTY
    return settings(max_examples=max(examples * asked // PLENTY, 1), deadline=None, suppress_health_check=list(HealthCheck))

"""For all tests: property tests have no time limit of their own, because a busy machine is no failure.

`make check` asks for the quick profile, a quarter of the examples; `make test` runs them all; `make fuzz` twice as many, in rounds.
"""

from hypothesis import settings

collect_ignore = ["clients"]  # what others' clients ask, by an interpreter that has them: `make clients`

settings.register_profile("thorough", deadline=None)
settings.register_profile("quick", deadline=None, max_examples=25)
settings.register_profile("fuzz", deadline=None, max_examples=200, print_blob=True)
settings.load_profile("thorough")

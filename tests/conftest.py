"""For all tests: property tests have no time limit of their own, because a busy machine is no failure."""

from hypothesis import settings

settings.register_profile("triptych", deadline=None)
settings.load_profile("triptych")

"""Fuzzes for as long as it is told: `python -m tests.fuzz.rounds --seconds 3600`.

Runs the tests of this folder again and again, twice as many examples as in `make test` and others each round, until the time
is up or a test fails. Hypothesis keeps what failed, made small, in .hypothesis/examples, where every later run tries it first;
what is worth keeping for good becomes an `@example` of its test. A round that has begun is finished.
"""

import argparse
import sys
import time

import pytest


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("tests", nargs="*", default=["tests/fuzz"], help="files or tests; all of them where none is named")
    given = parser.parse_args()
    end, rounds = time.monotonic() + given.seconds, 0
    while rounds == 0 or time.monotonic() < end:
        failed = pytest.main(["-x", "--hypothesis-profile", "fuzz", *given.tests])
        rounds += 1
        if failed:
            return int(failed)
    print(f"{rounds} rounds, and nothing failed")
    return 0


if __name__ == "__main__":
    sys.exit(main())

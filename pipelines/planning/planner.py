"""The plan: which pools, how many replicas of each, and which part of every class's work goes where.

Decides in which order things are asked: what is impossible is told first, then a plan is looked for, then what one more device of each type
would bring. How each is found is in the modules beside this one.
"""

from collections.abc import Mapping
from dataclasses import replace

from pipelines.planning.fleet import Fleet, Rules
from pipelines.planning.impossible import misplaced, refuse_impossible, too_fast
from pipelines.planning.plan import Plan
from pipelines.planning.solving.program import Asked, Goal, relaxed, solved, written
from pipelines.planning.solving.search import Found, Patience, Search
from pipelines.planning.telling.assembling import assembled
from stages.contract.errors import ConfigurationError

SOLVED_AGAIN_UP_TO = 16  # devices; of more, what another one would bring is told by the relaxation
AGAIN_S = 2.0


def plan(fleet: Fleet, rules: Rules | None = None, asked: Asked | None = None, patience: Patience | None = None) -> Plan:
    """The best that was found in time. Raises `ConfigurationError` where nothing will do, with what is missing."""
    rules, asked, patience = rules or Rules(), asked or Asked(), patience or Patience()
    refuse_impossible(fleet, rules, asked)
    search = Search(fleet, rules, asked, patience)
    highest = search.highest_rate()
    if not highest:
        raise misplaced(fleet, rules, search.every)
    if asked.rate is not None and asked.rate > highest:
        raise too_fast(asked.rate, highest)
    found, bound = search.best(asked.rate or highest)
    if found is None and asked.rate is not None:
        raise too_fast(asked.rate, plan(fleet, rules, Asked(), patience).rate)
    if found is None:
        raise ConfigurationError(f"no plan was found within {patience.time_limit_s:g} s; give it longer (--time-limit)")
    more = one_more(search, found, highest) if asked.goal is Goal.RATE else {}
    how = "solved again" if _is_small(fleet) else "by the relaxation, as if replicas could be divided"
    return assembled(fleet, rules, asked, found, bound, search.gap(found.value, bound), more, how if more else "")


def one_more(search: Search, found: Found, highest: float) -> Mapping[str, float]:
    """By type of device, requests a second that another of it would bring."""
    brings = {}
    for at, device in enumerate(search.fleet.devices):
        devices = list(search.fleet.devices)
        devices[at] = replace(device, count=device.count + 1)
        program = written(replace(search.fleet, devices=tuple(devices)), search.rules, found.among, Asked(), scale=highest)
        if _is_small(search.fleet):
            again = solved(program, Asked(), time_limit_s=AGAIN_S, gap=search.patience.gap)
            brings[device.name] = max(0.0, again.rate - found.value) if again is not None else 0.0
        else:
            again, now = (
                relaxed(program, Asked()),
                relaxed(written(search.fleet, search.rules, found.among, Asked(), scale=highest), Asked()),
            )
            brings[device.name] = max(0.0, again.rate - now.rate) if again is not None and now is not None else 0.0
    return brings


def _is_small(fleet: Fleet) -> bool:
    return sum(device.count for device in fleet.devices) <= SOLVED_AGAIN_UP_TO

"""The plan: which pools, how many replicas of each, and which part of every class's work goes where.

Decides in which order things are asked: what is impossible is told first, then a plan is looked for, then what one more device of each type
would bring. How each is found is in the modules beside this one.
"""

from collections.abc import Mapping
from dataclasses import replace

from pipelines.planning.fleet import Fleet, Rules
from pipelines.planning.impossible import misplaced, refuse_impossible, too_fast
from pipelines.planning.plan import Plan
from pipelines.planning.solving.columns import distinct
from pipelines.planning.solving.fitting import likeliest
from pipelines.planning.solving.program import Asked, Goal, relaxed, solved, written
from pipelines.planning.solving.search import FOR_PLAN, ROUNDING, Found, Patience, Search
from pipelines.planning.telling.assembling import assembled
from stages.contract.errors import ConfigurationError

SOLVED_AGAIN_UP_TO = 16  # devices; of more, what another one would bring is told by the relaxation
LEAST_S = 0.2  # for each of those solutions
FEW = 8  # columns for each type of device, beside those of the plan


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
    bound = max(bound, found.value) if asked.goal is Goal.RATE else min(bound, found.value)  # but for the solver's tolerances
    more = one_more(search, found, highest) if asked.goal is Goal.RATE else {}
    how = "solved again" if _is_small(fleet) else "by the relaxation, as if replicas could be divided"
    return assembled(fleet, rules, asked, found, bound, search.gap(found.value, bound), more, how if more else "")


def one_more(search: Search, found: Found, highest: float) -> Mapping[str, float]:
    """By type of device, requests a second that another of it would bring."""
    patience, fleet = search.patience, search.fleet
    now = relaxed(written(fleet, search.rules, found.among, Asked(), scale=highest), Asked())
    time_limit_s = max(LEAST_S, (1 - FOR_PLAN) * patience.time_limit_s / len(fleet.devices))
    brings = {}
    for device in fleet.devices:
        devices = tuple(replace(each, count=each.count + (each is device)) for each in fleet.devices)
        more = replace(fleet, devices=devices)
        then = relaxed(written(more, search.rules, found.among, Asked(), scale=highest), Asked())
        if then is not None and _is_small(fleet):
            few = distinct([*found.columns, *likeliest(found.among, then, FEW)])
            program = written(more, search.rules, few, Asked(), scale=highest, at_least=found.value * (1 - ROUNDING))
            again = solved(program, Asked(), time_limit_s=time_limit_s, gap=patience.gap)
            brings[device.name] = max(0.0, again.rate - found.value) if again is not None else 0.0
        elif then is not None and now is not None:
            brings[device.name] = max(0.0, then.rate - now.rate)
    return brings


def _is_small(fleet: Fleet) -> bool:
    return sum(device.count for device in fleet.devices) <= SOLVED_AGAIN_UP_TO

"""`triptych explain PLAN | RECEIPT`, `triptych explain --live REQUEST_ID`: why a plan is as it is, and why a request ran where it ran.

Decides what a person is told, in which words. The reasons themselves come with what is explained: a plan's from the planner, a
decision's from the router. Knows both as JSON only.
"""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from pipelines.commands.console import errors, shown
from stages.contract.errors import ConfigurationError

Json = Mapping[str, Any]

MAX_ASKED = 8  # connections: behind Serve's proxy each may reach another replica of the HTTP surface
STDIN = "-"


def explain(
    file: Annotated[
        str | None,
        typer.Argument(help="a plan (`triptych plan --out` writes one), or an answer with its receipt, as JSON; - reads it"),
    ] = None,
    live: Annotated[
        str | None, typer.Option("--live", help="the id of one of the latest requests, asked of a running server")
    ] = None,
    url: Annotated[str, typer.Option(help="of the running server")] = "http://127.0.0.1:8000",
    key: Annotated[str, typer.Option(envvar="TRIPTYCH_API_KEY", help="an API key, where the server asks for one")] = "",
) -> None:
    """Says why a plan is as it is, or why each stage of a request ran where it ran."""
    console = Console()
    with errors(console):
        if (file is None) == (live is None):
            raise ConfigurationError("explain what? Give a file, or --live REQUEST_ID")
        document = _asked(url, live, key) if live is not None else _read(str(file))
        for line in explained(document):
            console.print(shown(line), soft_wrap=True, highlight=False)


def explained(document: Json) -> Iterator[str]:
    """Lines. Raises `ConfigurationError` for what is neither a plan nor a receipt."""
    receipt = _receipt_in(document)
    if receipt is not None:
        yield from explained_receipt(receipt)
    elif isinstance(document.get("pools"), Sequence):
        yield from explained_plan(document)
    else:
        raise ConfigurationError("this is neither a plan (it has no `pools`) nor a receipt (it has no `stages`)")


def _receipt_in(document: Json) -> Json | None:
    """Of a receipt, or of an answer of any kind that has one."""
    found: Any = document
    for _ in range(3):
        if not isinstance(found, Mapping):
            return None
        if "request_id" in found and isinstance(found.get("stages"), Sequence):
            return found
        found = found.get("triptych", found.get("receipt"))
    return None


def explained_receipt(receipt: Json) -> Iterator[str]:
    yield (
        f"request {receipt['request_id']}: {_time(receipt.get('total_s'))} in all, "
        f"{_time(receipt.get('device_s'))} of it a device's"
    )
    for stage in receipt["stages"]:
        yield f"{stage['stage']}: {_where(stage)}"
        for line in _reasons(stage):
            yield f"  {line}"


def _where(stage: Json) -> str:
    place = f"pool {stage['pool']}, " if stage.get("pool") else ""
    replica = f"replica {stage['replica']}, " if stage.get("replica") else ""
    return f"{place}{replica}on {stage.get('device', 'a device')} in {stage.get('dtype', 'an unknown dtype')}"


def _reasons(stage: Json) -> Iterator[str]:
    took_s = stage.get("queue_s", 0.0) + stage.get("run_s", 0.0)
    expected_s = stage.get("expected_s")
    if expected_s is None and not stage.get("reasons"):
        yield "nobody chose: it had one place to run, or ran in the process that asked"
    elif expected_s is not None:
        yield f"chosen because its result was expected there first, in {_time(expected_s)}"
        yield _next_best(stage)
    if stage.get("remembered"):
        yield f"remembered there: {', '.join(stage['remembered'])}"
    yield from stage.get("reasons") or ()
    off = f", {_off(took_s, expected_s)}" if expected_s else ""
    yield f"took {_time(took_s)}{off}: waited {_time(stage.get('queue_s'))}, ran {_time(stage.get('run_s'))}{_in_batches(stage)}"


def _next_best(stage: Json) -> str:
    if stage.get("runner_up_s") is None:
        return "no other replica could take it"
    pool = f"pool {stage['runner_up_pool']}, " if stage.get("runner_up_pool") else ""
    later_s = stage["runner_up_s"] - stage["expected_s"]
    return f"next best: {pool}replica {stage.get('runner_up') or 'unknown'}, in {_time(stage['runner_up_s'])} ({_time(later_s)} later)"


def _off(took_s: float, expected_s: float) -> str:
    share = took_s / expected_s - 1
    return f"{abs(share):.0%} {'longer' if share > 0 else 'less'} than expected"


def _in_batches(stage: Json) -> str:
    steps, batch = stage.get("steps", 0), stage.get("batch_size")
    return f", {steps} steps, {batch:g} in each on average" if steps and batch else f", {steps} steps" if steps else ""


def explained_plan(plan: Json) -> Iterator[str]:
    goal = plan.get("goal", "rate")
    if plan.get("rate") is not None:
        busy = f" with devices busy {plan['target_utilisation']:.0%} of the time" if plan.get("target_utilisation") else ""
        yield f"rate: {plan['rate']:.4g} requests a second{busy}{_bound(plan, 'more') if goal == 'rate' else ''}"
    if plan.get("cost_per_hour") is not None:
        yield f"cost: {plan['cost_per_hour']:.4g} an hour{_bound(plan, 'less') if goal == 'cost' else ''}"
    if plan.get("is_estimate"):
        yield "some of it stands on datasheets, not on measurements"
    if plan.get("bottleneck"):
        yield f"bottleneck: {plan['bottleneck']}"
    for pool in plan["pools"]:
        yield _pool(pool)
        for reason in pool.get("reasons") or ():
            yield f"  {reason}"
    for each in plan.get("classes") or ():
        yield f"{each['name']}: {each['rate']:.4g} a second{''.join(map(_kept, each.get('bounds') or ()))}"
    for name, more in (plan.get("one_more") or {}).items():
        yield f"one more {name}: {_gain(more)}"
    yield from plan.get("reasons") or ()


def _bound(plan: Json, beyond: str) -> str:
    if plan.get("bound") is None:
        return ""
    gap = f", a gap of {plan['gap']:.1%}" if plan.get("gap") is not None else ""
    return f"; no plan can reach {beyond} than {plan['bound']:.4g}{gap}"


def _kept(bound: Json) -> str:
    return f"; {bound['setting']} {bound['expected_s']:.3g} in full batches, {bound['bound_s']:.3g} allowed"


def _pool(pool: Json) -> str:
    parts = [f"{pool['pool']}: {', '.join(pool.get('stages') or ())} on {pool.get('device', 'any device')}"]
    if pool.get("replicas") is not None:
        parts.append(f"{pool['replicas']} replicas")
    if pool.get("fraction") is not None and pool["fraction"] != 1:
        parts.append(f"{pool['fraction']:g} of a device each")
    if pool.get("batch"):
        parts.append(f"batches of up to {', '.join(f'{rows} ({stage})' for stage, rows in pool['batch'].items())}")
    if pool.get("utilisation") is not None:
        parts.append(f"{pool['utilisation']:.0%} busy")
    if pool.get("is_estimate"):
        parts.append("its times are estimated from a datasheet")
    return "; ".join(parts)


def _gain(more: Json) -> str:
    how = f" ({more['how']})" if more.get("how") else ""
    return f"{more.get('rate', 0.0):+.4g} requests a second{how}"


def _read(file: str) -> Json:
    try:
        text = sys.stdin.read() if file == STDIN else Path(file).read_text()
        document = json.loads(text)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{file}: cannot be read: {error}") from None
    except json.JSONDecodeError as error:
        raise ConfigurationError(f"{file}: is no JSON: {error}") from None
    if not isinstance(document, dict):
        raise ConfigurationError(f"{file}: is no JSON object")
    return document


def _asked(url: str, request_id: str, key: str) -> Json:
    """The receipt, from whichever replica of the HTTP surface answered that request."""
    import httpx

    headers = {"authorization": f"Bearer {key}"} if key else {}
    address = httpx.URL(f"{url.rstrip('/')}/v1/receipts/").join(_quoted(request_id))
    for _ in range(MAX_ASKED):
        try:
            answer = httpx.get(address, headers=headers, timeout=10, trust_env=False)
        except httpx.HTTPError as error:
            raise ConfigurationError(f"{url} does not answer: {error}") from None
        if answer.status_code == 200:
            return dict(answer.json())
        if answer.status_code != 404:
            raise ConfigurationError(f"{url} answers {answer.status_code}: {_message(answer.text)}")
    raise ConfigurationError(
        f"{url} has no receipt of a request {request_id!r}: only the latest ones that ended well are kept"
    )


def _quoted(request_id: str) -> str:
    from urllib.parse import quote

    return quote(request_id, safe="")


def _message(text: str) -> str:
    with suppress(ValueError, KeyError, TypeError):
        return str(json.loads(text)["error"]["message"])
    return text[:200]


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "an unknown time"
    if abs(seconds) >= 1:
        return f"{seconds:.2f} s"
    return f"{1000 * seconds:.0f} ms" if abs(seconds) >= 0.01 else f"{1000 * seconds:.1f} ms"

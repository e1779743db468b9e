"""`triptych plan`: from devices and requests to a `serve_config.yaml`. Decides what a person sees of a plan; what is planned is
`pipelines/planning/`."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Column, Table

from pipelines.commands.console import DEFAULT_CONFIG, ConfigPath, errors, shown
from pipelines.planning.fleet import Device, Fleet, Rules
from pipelines.planning.plan import Plan
from pipelines.planning.telling.naming import short_name
from pipelines.settings.config_file import load

RAY = "ray"


def plan(
    workload: Annotated[Path, typer.Option(help="classes of requests: what one holds, how many come, their SLOs (YAML)")],
    inventory: Annotated[str, typer.Option(help="the devices (YAML), or `ray`: those of the cluster that runs")] = RAY,
    slo: Annotated[list[str] | None, typer.Option(help="CLASS.SETTING=SECONDS, over what the workload says")] = None,
    profiles: Annotated[
        list[Path] | None, typer.Option(help="what `triptych profile` wrote: files, or folders of them")
    ] = None,
    config: ConfigPath = DEFAULT_CONFIG,
    rate: Annotated[float | None, typer.Option(min=0, help="requests a second that must be served, at the least cost")] = None,
    cost: Annotated[bool, typer.Option("--cost", help="the least cost for the workload's own rates")] = False,
    utilisation: Annotated[
        float | None,
        typer.Option(
            min=0.05, max=1, help="of the devices' time that may be planned for; left out: scaling.target_utilisation"
        ),
    ] = None,
    replicas: Annotated[int, typer.Option(min=1, help="of each stage, at the least, on as many nodes")] = 1,
    out: Annotated[Path | None, typer.Option(help="where the configuration goes; the plan as JSON goes beside it")] = None,
    time_limit: Annotated[
        float, typer.Option(min=1, help="seconds; the best plan found by then, and how far from the best of all")
    ] = 30,
    as_json: Annotated[bool, typer.Option("--json", help="print the plan as JSON")] = False,
    address: Annotated[str, typer.Option(help="of the Ray cluster, with --inventory ray")] = "auto",
) -> None:
    """Which stages on which devices: the highest rate within the SLOs, or the least cost for a rate."""
    console = Console()
    with errors(console):
        from pipelines.planning.bounds import allowed
        from pipelines.planning.planner import plan as planned
        from pipelines.planning.reading.described import request_classes
        from pipelines.planning.reading.profiled import fleet
        from pipelines.planning.reading.workload import read_workload
        from pipelines.planning.serve_file import planned_file
        from pipelines.planning.solving.program import Asked, Goal
        from pipelines.planning.solving.search import Patience
        from stages.profiles.profile_files import read_profiles

        app = load(config).app
        classes = request_classes(read_workload(workload, slo or ()), app)
        devices = allowed(_devices(inventory, address), app.scaling.budget)
        needed = fleet(app, devices, read_profiles(*(profiles or [Path(app.profiles)])), classes)
        wanted = sum(each.rate for each in classes) if cost and rate is None else rate
        asked = Asked() if wanted is None else Asked(Goal.COST, wanted)
        with console.status("planning"):
            found = planned(
                needed, Rules(utilisation or app.scaling.target_utilisation, replicas), asked, Patience(time_limit)
            )
        if out is not None:
            out.write_text(planned_file(config.read_text(), str(config), found, needed.devices, app, replicas))
            out.with_suffix(".plan.json").write_text(json.dumps(found.as_json(), indent=1) + "\n")
        if as_json:
            typer.echo(json.dumps(found.as_json(), indent=1))
        else:
            print_plan(found, needed, console)


def _devices(inventory: str, address: str) -> tuple[Device, ...]:
    if inventory == RAY:
        from pipelines.cluster.state.inventory import running_devices

        return running_devices(address)
    from pipelines.planning.reading.inventory import read_inventory

    return read_inventory(Path(inventory))


def print_plan(plan: Plan, fleet: Fleet, console: Console) -> None:
    console.print(_pools(plan, fleet))
    console.print(_device_table(plan))
    for line in _summary(plan):
        console.print(shown(line), soft_wrap=True, highlight=False)


def _pools(plan: Plan, fleet: Fleet) -> Table:
    table = Table(Column("pool", overflow="fold"), "device", "replicas", "stages (batch)", "used", "one more", box=None)
    for pool in plan.pools:
        stages = ", ".join(f"{short_name(each.stage, fleet.stages)} ({each.rows})" for each in pool.stages)
        part = "" if pool.fraction == 1 else f" x 1/{round(1 / pool.fraction)}"
        more = f"+{pool.one_more:.3g}/s" if pool.one_more else ""
        name = pool.name + ("*" if pool.is_estimate else "")
        table.add_row(*map(shown, (name, pool.device, f"{pool.replicas}{part}", stages, f"{pool.utilisation:.0%}", more)))
    return table


def _device_table(plan: Plan) -> Table:
    table = Table("device", "used", "busy", "one more", "how many look like this", box=None)
    for use in plan.devices:
        layouts = "; ".join(f"{count} x {' + '.join(names)}" for count, names in use.layouts)
        more = "" if use.one_more is None else f"+{use.one_more:.3g}/s"
        table.add_row(*map(shown, (use.device, f"{use.used} of {use.count}", f"{use.utilisation:.0%}", more, layouts)))
    return table


def _summary(plan: Plan) -> list[str]:
    cost = "" if plan.cost_per_hour is None else f", {plan.cost_per_hour:.4g} an hour"
    unit = "requests a second" if plan.goal == "rate" else "an hour"
    lines = [
        f"{plan.rate:.4g} requests a second at {plan.target_utilisation:.0%} of the devices' time "
        f"({plan.saturated_rate:.4g} at all of it){cost}",
        f"no plan does better than {plan.bound:.4g} {unit}: this one is within {plan.gap:.2%} of that",
        *(
            f"{each.name}: {each.rate:.4g}/s"
            + "".join(f", {kept.setting} {kept.expected_s:.3g} of {kept.bound_s:g} s" for kept in each.bounds)
            for each in plan.classes
        ),
        *plan.reasons,
    ]
    return lines + ([f"what one more device would bring: {plan.how_one_more}"] if plan.how_one_more else [])

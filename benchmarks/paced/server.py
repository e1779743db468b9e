"""Triptych with a `PacedLlm` where the language model would be, and all else as it is: HTTP surface, pipeline, tokenizer, Ray, host
and engine.

`--form ray` deploys it as `pipelines/app.py` does, but for the stage; `--form one-process` is `pipelines/one_process.py` behind
uvicorn. `python -m benchmarks.paced.server --form ray --port 8000 --log steps.txt --step-s 0.05 --max-rows 8`
"""

import argparse
import asyncio
import hashlib
import signal
import threading
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import uvicorn

from benchmarks.paced.stages import PacedLlm
from benchmarks.servers.cluster import MadeReplica, cluster, deployed
from pipelines.client import LocalStageClient
from pipelines.cluster.local_cluster import HttpAddress
from pipelines.ingress.app import create_app
from pipelines.ingress.request.settings import settings_of
from pipelines.one_process import LocalDirectory
from pipelines.service import Triptych
from pipelines.settings.config_file import parse
from pipelines.settings.derived import capacity
from pipelines.settings.schema.config import INGRESS, AppConfig
from pipelines.settings.serve.specs import stage_specs
from pipelines.threads import Threads
from stages.contract.limits import BatchLimits
from stages.host.host import StageHost

MODEL, STAGE, DEPLOYMENT = "paced", "paced.llm", "llm"
RAY, ONE_PROCESS = "ray", "one-process"


def key_of(tenant: str) -> str:
    return f"the key of {tenant}"


def paced_config(max_rows: int, tenants: Sequence[str] = (), **limits: float) -> AppConfig:
    """The tokenizer and the chat template are SmolLM2's. `tenants`: who has a key; everybody may ask where there are none."""
    llm = {"source": {"demo": "smollm2"}, "num_slots": max_rows}
    deployment = {"stages": [STAGE], "num_replicas": 1}
    return parse(
        {
            "models": {MODEL: {"pipeline": "image_text", "llm": llm}},
            "deployments": {DEPLOYMENT: deployment},
            "cache": {"redis": None},
            "limits": limits,
            "auth": _auth(tenants) if tenants else {},
        }
    )


def _auth(tenants: Sequence[str]) -> dict[str, Any]:
    keys = [{"tenant": tenant, "sha256": hashlib.sha256(key_of(tenant).encode()).hexdigest()} for tenant in tenants]
    return {"keys": keys, "secret_env": "TRIPTYCH_BENCHMARK_SECRET"}


async def serve_in_one_process(config: AppConfig, stage: PacedLlm, batch: BatchLimits, port: int) -> None:
    host = StageHost()
    host.add(STAGE, stage, batch=batch)
    service = Triptych(config, LocalStageClient(host), LocalDirectory(list(stage_specs(config).values()), host), Threads.new())
    app = create_app(service, settings_of(config))
    try:
        await uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="warning")).serve()
    finally:
        await host.close()


def serve_over_ray(config: AppConfig, make: partial[PacedLlm], batch: BatchLimits, port: int) -> None:
    stop = threading.Event()
    with cluster(HttpAddress("127.0.0.1", port)):
        _deploy(config, make, batch)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: stop.set())
        stop.wait()


def _deploy(config: AppConfig, make: partial[PacedLlm], batch: BatchLimits) -> None:
    """The deployments of `pipelines.app`, with another class for the stage's replica."""
    from ray import serve

    from pipelines.app import Ingress
    from pipelines.cluster.stage_deployment import TINY
    from pipelines.cluster.state.metrics_table import MetricsTable
    from pipelines.settings.serve.applications import METRICS, OWN, SurfaceArgs, surface_application

    table: Any = serve.deployment(MetricsTable).options(name=METRICS, ray_actor_options=TINY, max_ongoing_requests=1000).bind()
    most = capacity(config.deployments[DEPLOYMENT], config).max_ongoing_requests
    llm = deployed(MadeReplica, (STAGE, make, batch, 1, table), name=DEPLOYMENT, max_ongoing_requests=most, is_pool=True)
    surface = surface_application(config, "triptych", {DEPLOYMENT: OWN, METRICS: OWN})
    ingress = serve.deployment(Ingress).options(
        name=INGRESS,
        ray_actor_options={"num_cpus": config.ingress.ray_actor_options.num_cpus},
        max_ongoing_requests=config.ingress.max_ongoing_requests,
        user_config=surface.deployments[INGRESS]["user_config"],
    )
    application = ingress.bind(SurfaceArgs.model_validate(surface.args), [llm, table])
    serve.run(application, name="triptych", route_prefix="/")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--form", choices=[RAY, ONE_PROCESS], required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--log", type=Path, required=True)
    parser.add_argument("--step-s", type=float, required=True)
    parser.add_argument("--max-rows", type=int, required=True)
    parser.add_argument("--tenants", nargs="+", default=(), help="with keys; their secret is TRIPTYCH_BENCHMARK_SECRET")
    parser.add_argument("--default-request-s", type=float)
    given = parser.parse_args()
    limits = {"default_request_s": given.default_request_s} if given.default_request_s else {}
    config, batch = paced_config(given.max_rows, given.tenants, **limits), BatchLimits(max_items=given.max_rows)
    if given.form == RAY:
        serve_over_ray(config, partial(PacedLlm, given.step_s, given.log), batch, given.port)
    else:
        asyncio.run(serve_in_one_process(config, PacedLlm(given.step_s, given.log), batch, given.port))


if __name__ == "__main__":
    main()

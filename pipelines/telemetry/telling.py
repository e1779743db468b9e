"""How one process tells what it does, beside its metrics: spans and logs, as the configuration last said. Decides nothing of either."""

from pipelines.settings.schema.telemetry import TelemetryConfig
from pipelines.telemetry.json_logs import LogFormat
from pipelines.telemetry.tracer import ProcessTracer
from stages.concurrency.thread_pool import DaemonThreads


class ProcessTelling:
    """`replica`: the process's name. `close` it last."""

    def __init__(self, replica: str) -> None:
        self.tracer = ProcessTracer(replica)
        self._logs = LogFormat(replica)

    def follow(self, telemetry: TelemetryConfig) -> None:
        self.tracer.follow(telemetry.traces)
        self._logs.follow(telemetry.logs)

    async def close(self) -> None:
        """Idempotent. A collector that is slow is not waited for."""
        await DaemonThreads("sending the last spans", max_threads=1).run(self.tracer.close)
        self._logs.close()

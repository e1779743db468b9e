"""What replicas last said, and for how long it counts."""

from pipelines.cluster.state.metrics_table import MetricsTable, Refused, SettingsInUse
from stages.contract.item import StageMetrics


def counted(replica: str) -> StageMetrics:
    return StageMetrics("m.llm", replica, "cpu", "float32", {"queued": 1.0})


async def test_a_replica_that_says_nothing_for_long_is_forgotten() -> None:
    now = [0.0]
    table = MetricsTable(stale_after_s=30, now=lambda: now[0])
    await table.report("a", [counted("a")])
    await table.report_settings("surface", SettingsInUse(("1",)))
    now[0] = 20
    await table.report("b", [counted("b")])
    now[0] = 31
    assert [row.replica for row in await table.read()] == ["b"]
    assert await table.settings() == {}


async def test_the_last_word_of_a_replica_counts() -> None:
    table = MetricsTable()
    await table.report_settings("surface", SettingsInUse(("1", "2")))
    await table.report_settings("surface", SettingsInUse(("2",), refused=None))
    await table.report_settings("another", SettingsInUse(("1",), refused=Refused("2", "no key")))
    assert await table.settings() == {
        "surface": SettingsInUse(("2",)),
        "another": SettingsInUse(("1",), Refused("2", "no key")),
    }

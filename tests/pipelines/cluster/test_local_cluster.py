"""What is refused before a cluster is started or changed."""

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipelines.cluster.local_cluster import (
    HttpAddress,
    refuse_unknown_to_serve,
    refuse_what_has_no_place,
    refusing_another_cluster,
)
from pipelines.settings.config_file import HttpConfig, ServeFile, parse
from pipelines.settings.nodes import Node
from stages.contract.errors import ConfigurationError

CONFIG = parse({"models": {"clip": {"pipeline": "embed", "embedder": {"source": {"demo": "clip"}}}}})


def file(options: dict[str, Any], others: tuple[dict[str, Any], ...] = ()) -> ServeFile:
    return ServeFile(http=HttpConfig(), app_name="test", app=CONFIG, options=options, others=others)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"http_options": {"request_timeout_s": "soon"}}, r"http_options\.request_timeout_s: .*number"),
        ({"logging_config": {"encoding": "x"}}, r"logging_config\.encoding: .*TEXT"),
        ({"grpc_options": 5}, "grpc_options: "),
    ],
)
def test_what_serve_itself_would_refuse_is_told_in_a_line(options: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigurationError, match=f"^configuration refused:\n  {told}[^\n]*$"):
        refuse_unknown_to_serve(file(options))


def test_another_application_that_serve_would_refuse_is_told_too() -> None:
    with pytest.raises(ConfigurationError, match=r"applications\.0\.import_path"):
        refuse_unknown_to_serve(file({}, ({"name": "other"},)))


def test_what_serve_knows_passes() -> None:
    refuse_unknown_to_serve(file({"proxy_location": "HeadOnly", "http_options": {"host": "127.0.0.1", "port": 8001}}))


@pytest.mark.parametrize(("min_replicas", "refused"), [(1, True), (0, False)])
def test_a_pool_that_this_machine_has_no_device_for_is_refused_unless_it_may_sleep(
    min_replicas: int, refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.cluster.running_serve.nodes", lambda: [Node({"CPU": 4.0})])
    pool = {
        "stages": ["clip.embedder"],
        "autoscaling_config": {"min_replicas": min_replicas, "max_replicas": 2},
        "ray_actor_options": {"accelerator_type": "L4", "num_gpus": 1},
    }
    args = CONFIG.model_dump(mode="json", exclude_defaults=True)
    here, far = ({**args, "deployments": {"here": {"stages": ["clip.embedder"]}} | more} for more in ({}, {"far": pool}))
    refuse_what_has_no_place(parse(here))
    if refused:
        with pytest.raises(
            ConfigurationError, match=r"deployments\.far\.ray_actor_options: a replica wants .*accelerator_type:L4"
        ):
            refuse_what_has_no_place(parse(far))
    else:
        refuse_what_has_no_place(parse(far))


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:8000"),
        ("0.0.0.0", "http://127.0.0.1:8000"),
        ("localhost", "http://localhost:8000"),
        ("::1", "http://[::1]:8000"),
    ],
)
def test_the_address_that_is_told_can_be_opened(host: str, url: str) -> None:
    assert HttpAddress(host, 8000).url == url


@pytest.fixture
def own_signals() -> Iterator[None]:
    """`ray.init` begins with a handler of its own."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


OTHERS = {
    "RAY_ADDRESS": r"^RAY_ADDRESS names a Ray cluster \(192\.0\.2\.1:6379\), .*: unset it, or .* `triptych deploy`$",
    "ray start": "^`ray start` has started a Ray cluster on this machine, .*: end that one with `ray stop`, or .* `triptych deploy`$",
}


@pytest.mark.usefixtures("own_signals")
@pytest.mark.parametrize("told_by", OTHERS)
def test_a_cluster_that_ray_would_join_is_refused_in_a_line(
    told_by: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray's own refusal: it comes before Ray starts or connects to anything. 192.0.2.1 is nobody's."""
    import ray
    from ray._private import utils

    if told_by == "RAY_ADDRESS":
        monkeypatch.setenv("RAY_ADDRESS", "192.0.2.1:6379")
    else:
        monkeypatch.delenv("RAY_ADDRESS", raising=False)
        utils.write_ray_address("192.0.2.1:6379", str(tmp_path))
    with pytest.raises(ConfigurationError, match=OTHERS[told_by]), refusing_another_cluster():
        ray.init(num_cpus=1, log_to_driver=False, logging_level="error", _temp_dir=str(tmp_path))


def test_what_else_ray_refuses_is_told_as_it_is() -> None:
    with pytest.raises(ValueError, match=r"^object store too small$"), refusing_another_cluster():
        raise ValueError("object store too small")

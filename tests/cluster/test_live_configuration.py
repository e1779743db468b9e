"""A configuration that changes while requests come, on a Ray cluster of two nodes: whose processes stay, and that no request fails."""

import math
import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stages.checkpoints.checkpoint import Source, resolve
from stages.checkpoints.part_files import WHOLE_MODEL
from stages.contract.errors import ConfigurationError
from tests.cache.redis_server import RedisServer
from tests.cluster.live_cluster import changed, deploy, embedder, nodes, processes, ray_nodes, requests, status_of
from tests.cluster.server import eventually

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1800)]

KEY = {"tenant": "somebody", "sha256": "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b"}  # of "secret"
OTHER_KEY = {"tenant": "other", "sha256": "d9298a10d1b0735837dc4bd85dac641b0f3cef27a47e5d53a54f2f3f5b2fcffa"}  # of "other"
QUOTA = 6
NUM_ASKED = 12
"""At once: more than a replica lets in."""


def configuration() -> dict[str, Any]:
    """Two models, each in a deployment of its own, one with two replicas."""
    return {
        "models": {"one": embedder(), "two": embedder()},
        "deployments": {
            "one": {"stages": ["one.embedder"], "num_replicas": 1},
            "two": {"stages": ["two.embedder"], "num_replicas": 2},
        },
        "cache": {"redis": None},
        "fork_server": False,  # replicas that need no model library are up sooner as what the cluster starts
    }


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with ray_nodes({"num_cpus": 2}, {"num_cpus": 2}) as port:
        yield port


def test_a_first_deploy_that_failed_is_repaired_by_the_same_again(port: int, tmp_path: Path) -> None:
    weights = tmp_path / "weights"
    args = changed(configuration(), lambda new: new["models"]["one"]["embedder"].update(source={"folder": str(weights)}))
    with pytest.raises(ConfigurationError, match="DEPLOY_FAILED"):
        deploy(args)
    weights.symlink_to(resolve(Source(demo="clip"), WHOLE_MODEL).folder)
    deploy(args)
    assert status_of(port, model="one", input="a") == 200


def test_a_changed_configuration_restarts_what_it_changes_and_fails_no_request(port: int, tmp_path: Path) -> None:
    args = configuration()
    deploy(args)
    before = processes()
    assert {name: len(pids) for name, pids in before.items()} == {"ingress": 1, "metrics": 1, "one": 1, "two": 2}
    assert len(nodes()) == 2

    # a limit: in place
    assert status_of(port, model="one", input=["a", "b", "c"]) == 200
    args = changed(args, lambda new: new.update(limits={"embedding_inputs": 2}))
    with requests(port, "one", "two"):
        deploy(args)
    assert status_of(port, model="one", input=["a", "b", "c"]) == 400
    assert processes() == before

    # a queue's bound: in place
    args = changed(args, lambda new: new["models"]["one"]["embedder"].update(queue={"max_items": 17}))
    with requests(port, "one", "two"):
        deploy(args)
    assert processes() == before

    # a scaling bound: more replicas, the others stay
    args = changed(args, lambda new: new["deployments"]["one"].update(num_replicas=2))
    with requests(port, "one", "two"):
        deploy(args)
    scaled = processes()
    assert before["one"] < scaled["one"]
    assert len(scaled["one"]) == 2
    assert scaled | {"one": before["one"]} == before

    # one model's dtype: its replicas only
    args = changed(args, lambda new: new["models"]["two"]["embedder"].update(dtype="bfloat16"))
    with requests(port, "one", "two"):
        deploy(args)
    restarted = processes()
    assert restarted["two"].isdisjoint(scaled["two"])
    assert len(restarted["two"]) == 2
    assert restarted | {"two": scaled["two"]} == scaled

    # one model's weights: its replicas only, and requests go from the old ones to the new
    folder = shutil.copytree(resolve(Source(demo="clip"), WHOLE_MODEL).folder, tmp_path / "clip")
    weights = {"folder": str(folder)}
    args = changed(args, lambda new: new["models"]["two"]["embedder"].update(source=weights))
    with requests(port, "one", "two"):
        deploy(args)
    replaced = processes()
    assert replaced["two"].isdisjoint(restarted["two"])
    assert replaced | {"two": restarted["two"]} == restarted

    # the same folder with something else in it: as other weights are
    settings = folder / "open_clip_config.json"
    settings.write_text(settings.read_text() + "\n")
    earlier = replaced
    with requests(port, "one", "two"):
        deploy(args)
    replaced = processes()
    assert replaced["two"].isdisjoint(earlier["two"])
    assert replaced | {"two": earlier["two"]} == earlier

    # two models change places: each is in both until the surface knows
    def swap(new: dict[str, Any]) -> None:
        new["deployments"]["one"]["stages"], new["deployments"]["two"]["stages"] = ["two.embedder"], ["one.embedder"]

    args = changed(args, swap)
    with requests(port, "one", "two"):
        deploy(args)
    swapped = processes()
    assert all(swapped[name].isdisjoint(replaced[name]) for name in ("one", "two"))
    assert swapped["ingress"] == replaced["ingress"]
    restarted = swapped

    # where there is no room for both, the old one goes first, and requests wait
    def other_weights_without_room(new: dict[str, Any]) -> None:
        new["models"]["two"]["embedder"].update(source={"demo": "clip"})
        new["deployments"]["one"].update(max_surge_percent=0)

    args = changed(args, other_weights_without_room)
    with requests(port, "one", "two"):
        deploy(args)
    restarted = processes()
    assert restarted["one"].isdisjoint(swapped["one"])
    assert restarted | {"one": swapped["one"]} == swapped

    # a new model: nobody restarts
    args = changed(args, lambda new: new["models"].update(three=embedder()))
    with requests(port, "one", "two"):
        deploy(args)
    grown = processes()
    assert status_of(port, model="three", input="a") == 200
    assert {name: pids for name, pids in grown.items() if name != "three-embedder"} == restarted

    # a removed model: what it was asked is answered
    args = changed(args, lambda new: new["models"].pop("two"))
    args = changed(args, lambda new: new["deployments"].pop("one"))
    with requests(port, "one", "three"):
        deploy(args)
    shrunk = processes()
    assert status_of(port, model="two", input="a") == 404
    assert shrunk == {name: pids for name, pids in grown.items() if name != "one"}

    # a key: in place
    args = changed(args, lambda new: new.update(auth={"keys": [KEY]}))
    with requests(port, "one", "three", key="secret"):
        deploy(args)
    assert status_of(port, model="one", input="a") == 401
    assert processes() == shrunk

    # settings that can't be served by are refused, and the old ones go on
    with requests(port, "one", "three", key="secret"):
        with pytest.raises(ConfigurationError, match="NOT_SET_ANYWHERE is not set"):
            deploy(changed(args, lambda new: new.update(auth={"keys": [KEY | {"sha256": None, "env": "NOT_SET_ANYWHERE"}]})))
    assert processes() == shrunk


def let_in_until_none_is(port: int) -> int:
    """How many requests, until of `NUM_ASKED` in a row none is: both replicas know by then that nothing is left."""
    found = 0

    def none_is() -> bool:
        nonlocal found
        more = sum(status_of(port, key="secret", model="one", input=str(number)) == 200 for number in range(NUM_ASKED))
        found += more
        return not more

    eventually(none_is, "nothing is left of the quota")
    return found


def test_a_quota_holds_over_http_replicas_and_outlives_one(port: int, tmp_path: Path) -> None:
    """Each decides by itself and hears of the other through Redis: a minute's worth may be had at each of them once, and then as it drains;
    who takes a dead one's place begins with what the other knows."""
    secret = tmp_path / "secret"
    secret.write_text("not to be guessed at all")
    redis = RedisServer(tmp_path, tcp=True).start()
    quota, per_minute = {"requests_per_minute": QUOTA}, QUOTA / 60
    args = configuration() | {
        "cache": {"redis": {"url": redis.url}},
        "ingress": {"num_replicas": 2},
        "auth": {"keys": [KEY, OTHER_KEY], "secret_file": str(secret), "quotas": {KEY["tenant"]: quota}},
    }
    try:
        deploy(args)
        began = time.monotonic()
        let_in = let_in_until_none_is(port)
        assert QUOTA <= let_in <= 2 * QUOTA + math.ceil((time.monotonic() - began) * 2 * per_minute)
        assert status_of(port, key="other", model="one", input="a") == 200

        before = processes()["ingress"]
        os.kill(min(before), signal.SIGKILL)
        eventually(lambda: len(processes()["ingress"] - before) == 1, "another takes its place")
        assert let_in_until_none_is(port) < QUOTA  # of which a replica that knew nothing would let in as many
    finally:
        redis.kill()

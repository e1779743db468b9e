"""Every stage in the HTTP surface's own replica: the same answers, with no hop, and as well looked after."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.cluster.server import Server, eventually, served, shipped_config
from tests.cluster.shipped.test_served import PAINT, SEE, fresh_image, painted_in, question, receipt_of

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    config = shipped_config()
    config["applications"][0]["name"] = "one-replica"  # another server may run beside it
    args = config["applications"][0]["args"]
    del args["models"]["triptych-clip"]
    stages = [stage for name, deployment in args["deployments"].items() if name != "clip" for stage in deployment["stages"]]
    args |= {"deployments": {}, "ingress": {"stages": stages, "torch_threads": 2}}
    with served(config, tmp_path_factory.mktemp("one-replica")) as server:
        yield server


def test_chat_and_painting_run_there_and_are_counted(server: Server) -> None:
    messages: list[Any] = question("What is this?", fresh_image(7))
    answer = server.openai.chat.completions.create(model=SEE, messages=messages, temperature=0, max_tokens=4)
    assert len({stage["replica"] for stage in receipt_of(answer).values()}) == 1
    painted = server.openai.images.generate(model=PAINT, prompt="a red circle on a pink background", extra_body={"seed": 3})
    assert painted_in(painted).shape == (64, 64, 3)
    assert set(server.replicas()) == {"ingress"}
    eventually(lambda: server.counter("triptych_stage_items_total", f"{PAINT}.denoiser") > 0, "the image in /metrics")


def test_killed_it_comes_back(server: Server) -> None:
    killed = set(server.kill("ingress"))
    assert killed

    def another_lives() -> bool:
        living = set(server.pids("ingress"))
        return bool(living) and living.isdisjoint(killed)

    eventually(another_lives, "a new replica")
    answer = server.openai.chat.completions.create(
        model=SEE, messages=[{"role": "user", "content": "What is the capital of France?"}], temperature=0, max_tokens=24
    )
    assert "Paris" in str(answer.choices[0].message.content)

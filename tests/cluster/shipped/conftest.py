"""One served Triptych for all tests here, as `serve_config.yaml` has it but for quicker scaling, and for a language model whose answers
don't depend on what is beside them, whatever CPU this is; it ends with the last of them."""

from collections.abc import Iterator

import pytest

from tests.cluster.server import Server, served, shipped_config


@pytest.fixture(scope="package")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    config = shipped_config()
    deployments = config["applications"][0]["args"]["deployments"]
    for deployment in deployments.values():
        deployment["autoscaling_config"] |= {"upscale_delay_s": 1, "downscale_delay_s": 4, "look_back_period_s": 2}
    # for the burst: what doesn't fit a batch should be done at once
    config["applications"][0]["args"]["scaling"] = {"drain_s": 1, "period_s": 0.5}
    # and what may wait for it: in the replica and before it
    config["applications"][0]["args"]["models"]["triptych-paint"]["denoiser"]["queue"] = {"max_items": 24}
    deployments["denoiser"]["max_queued_requests"] = 24
    config["applications"][0]["args"]["models"]["triptych-see"]["llm"]["dtype"] = "float32"
    with served(config, tmp_path_factory.mktemp("served")) as server:
        yield server

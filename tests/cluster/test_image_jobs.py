"""Jobs and images under addresses, with two HTTP replicas and Redis between them: any replica tells of them, and they outlive both."""

import io
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from PIL import Image

from tests.cluster.server import WAIT_S, Server, eventually, served, shipped_config
from tests.cluster.shipped.test_served import PAINT

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

SENTENCE = "a red circle on a pink background"
ASKED = 8
"""Times: each of two replicas answers some of so many, but for one in a hundred runs."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    config = shipped_config()
    config["applications"][0]["name"] = "image-jobs"  # another server may run beside it
    args = config["applications"][0]["args"]
    args["models"] = {PAINT: args["models"][PAINT]}
    stages = [f"{PAINT}.{part}" for part in ("text_encoder", "denoiser", "vae_decoder", "vae_encoder")]
    args |= {"deployments": {"painter": {"stages": stages, "torch_threads": 1}}, "ingress": {"num_replicas": 2}}
    with served(config, tmp_path_factory.mktemp("image-jobs")) as server:
        yield server


def asked(server: Server, path: str) -> httpx.Response:
    """Over a connection of its own, so that any replica may answer."""
    return httpx.get(f"{server.url}{path}", timeout=WAIT_S, trust_env=False)


def told(server: Server, id: str) -> dict[str, Any]:
    """Nobody may be there to answer for a moment."""
    try:
        response = asked(server, f"/v1/images/jobs/{id}")
    except httpx.HTTPError:
        return {"status": "not told"}
    return dict(response.json()) if response.status_code == 200 else {"status": "not told"}


def test_an_image_under_an_address_is_there_for_every_replica(server: Server) -> None:
    answer = server.http.post(
        "/v1/images/generations", json={"prompt": SENTENCE, "num_inference_steps": 4, "response_format": "url"}
    )
    assert answer.status_code == 200, answer.text
    address = httpx.URL(answer.json()["data"][0]["url"])
    images = [asked(server, address.path) for _ in range(ASKED)]
    assert {image.status_code for image in images} == {200}
    assert Image.open(io.BytesIO(images[0].content)).size == (64, 64)


def test_a_job_is_done_though_every_process_that_knew_of_it_dies(server: Server) -> None:
    submitted = server.http.post("/v1/images/jobs", json={"prompt": SENTENCE, "seed": 4, "num_inference_steps": 150})
    assert submitted.status_code == 202, submitted.text
    job = submitted.json()
    assert job["survives"]
    eventually(lambda: {told(server, job["id"])["status"] for _ in range(ASKED)} == {"in_progress"}, "the job under way")
    assert len(server.kill("ingress")) == 2
    eventually(lambda: told(server, job["id"])["status"] == "completed", "the job done by another", 240)
    done = told(server, job["id"])
    assert (done["tries"], [image["seed"] for image in done["images"]]) == (2, [4])
    content = asked(server, f"/v1/images/jobs/{job['id']}/content")
    assert Image.open(io.BytesIO(content.content)).size == (64, 64)

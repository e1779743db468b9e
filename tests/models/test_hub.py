"""Hub sources, against a hub on loopback: which files each process takes, what it starts from offline, what a failure says."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.models.hub_server import Hub, Repository, commit, files_of, serving
from tests.stages.llm.tiny_vlms import save_llava
from tests.stages.vision.vlm.test_shards import sharded

pytestmark = pytest.mark.models

NOWHERE = "http://127.0.0.1:9"
PAINTER = {
    "README.md": b"a painter",
    "model_index.json": b'{"_class_name": "StableDiffusionPipeline"}',
    "scheduler/scheduler_config.json": b'{"of": "scheduler"}',
    "unet/config.json": b'{"of": "unet"}',
    "unet/diffusion_pytorch_model.safetensors": b"u" * 100,
    "vae/config.json": b'{"of": "vae"}',
    "vae/diffusion_pytorch_model.fp16.safetensors": b"half",
    "vae/diffusion_pytorch_model.safetensors": b"v" * 100,
}
VAE = {"vae/config.json", "vae/diffusion_pytorch_model.safetensors"}
VAE_WEIGHTS = "vae/diffusion_pytorch_model.safetensors"
PAINTER_SETTINGS = {name for name in PAINTER if name.endswith(".json")}


@dataclass
class Machine:
    """Starts processes with one hub cache."""

    home: Path
    hub: Hub

    def process(self, do: str, model: dict[str, Any], stage: str = "", **environment: str) -> dict[str, Any]:
        task = {"do": do, "config": {"models": {"m": model}}, "stage": f"m.{stage}"}
        own = {"HF_ENDPOINT": self.hub.endpoint, "HF_HOME": str(self.home), "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        command = [sys.executable, "-m", "tests.models.hub_process", json.dumps(task)]
        kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        done = subprocess.run(command, env=kept | own | environment, capture_output=True, text=True, check=False, timeout=240)
        assert done.returncode == 0, done.stderr
        return dict(json.loads(done.stdout))

    def vae(self, revision: str | None = None, hub: str = "org/painter", **environment: str) -> dict[str, Any]:
        return self.process("resolve", painter(revision, hub), "vae_decoder", **environment)


def painter(revision: str | None = None, hub: str = "org/painter") -> dict[str, Any]:
    part = {"source": {"hub": hub, "revision": revision}}
    return {"pipeline": "text_to_image", **dict.fromkeys(("text_encoder", "denoiser", "vae_decoder"), part)}


def seer() -> dict[str, Any]:
    part = {"source": {"hub": "org/seer"}, "loader": "transformers"}
    return {"pipeline": "image_text", "vision_encoder": part, "llm": part | {"max_context_tokens": 64, "num_slots": 1}}


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serving(Hub({"org/painter": Repository(PAINTER)})) as hub:
        yield hub


@pytest.fixture
def machine(hub: Hub, tmp_path: Path) -> Machine:
    return Machine(tmp_path / "home", hub)


def test_a_stage_takes_its_own_files_and_takes_them_once(machine: Machine) -> None:
    first = machine.vae()
    assert machine.hub.taken() == VAE | PAINTER_SETTINGS
    assert first["commit"] == commit(1)
    assert machine.vae() == first
    assert machine.hub.taken() == set()


def test_the_parts_of_a_model_share_a_cache_without_sharing_files(machine: Machine) -> None:
    machine.vae()
    machine.hub.taken()
    machine.process("resolve", painter(), "denoiser")
    assert machine.hub.taken() == {"unet/diffusion_pytorch_model.safetensors"}


@pytest.fixture(scope="module")
def sharded_llava(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return files_of(sharded(save_llava, tmp_path_factory.mktemp("llava")))


INDEX = "model.safetensors.index.json"


def test_the_parts_of_a_vision_language_model_take_their_own_shards(
    machine: Machine, tmp_path: Path, sharded_llava: dict[str, bytes]
) -> None:
    machine.hub.repositories["org/seer"] = Repository(sharded_llava | {"original/model.pth": b"x", "model.onnx": b"x"})
    shards = {name for name in sharded_llava if name.endswith(".safetensors")}
    assert "error" not in machine.process("load", seer(), "vision_encoder")
    seeing = machine.hub.taken()
    assert seeing - shards == sharded_llava.keys() - shards
    assert "error" not in Machine(tmp_path / "elsewhere", machine.hub).process("resolve", seer(), "llm")
    speaking = machine.hub.taken()
    assert speaking - shards == sharded_llava.keys() - shards
    assert seeing & shards < shards
    assert speaking & shards < shards
    assert (seeing | speaking) & shards == shards


def test_the_http_process_takes_configuration_and_tokenizer_and_no_weights(
    machine: Machine, sharded_llava: dict[str, bytes]
) -> None:
    machine.hub.repositories["org/seer"] = Repository(sharded_llava)
    assert machine.process("serve", seer()) == {"models": ["m"]}
    assert machine.hub.taken() == {name for name in sharded_llava if not name.endswith((".safetensors", INDEX))}


@pytest.mark.parametrize("revision", [None, "main", "v1", commit(1)])
def test_what_is_cached_starts_offline_by_branch_tag_or_commit(machine: Machine, revision: str | None) -> None:
    machine.hub.repositories["org/painter"].revisions["v1"] = commit(1)
    online = machine.vae(revision)
    assert online["commit"] == commit(1)
    machine.hub.taken()
    assert machine.vae(revision, HF_HUB_OFFLINE="1") == online
    assert machine.hub.asked == []


def test_a_cache_without_the_hubs_listing_starts_offline_too(machine: Machine) -> None:
    online = machine.vae()
    (listing,) = machine.home.rglob(f"trees/{commit(1)}.json")
    listing.unlink()
    assert machine.vae(HF_HUB_OFFLINE="1") == online
    (machine.home / "hub/models--org--painter/snapshots" / commit(1) / VAE_WEIGHTS).unlink()
    told = machine.vae(HF_HUB_OFFLINE="1")["error"]
    assert told.startswith("source.hub: org/painter@main: there are no weights that could be loaded")
    assert VAE_WEIGHTS in told


def test_a_hub_that_cannot_be_reached_leaves_the_cached_commit(machine: Machine) -> None:
    online = machine.vae()
    machine.hub.repositories["org/painter"].push(2)
    assert machine.vae(HF_ENDPOINT=NOWHERE) == online
    assert machine.vae()["commit"] == commit(2)


def test_what_is_missing_offline_is_named_with_what_to_set(machine: Machine) -> None:
    machine.vae()
    told = machine.process("resolve", painter(), "denoiser", HF_HUB_OFFLINE="1")["error"]
    assert told.startswith(
        "source.hub: org/painter@main: unet/diffusion_pytorch_model.safetensors cannot be had: it is not in"
    )
    assert "HF_HUB_OFFLINE is set" in told
    assert str(machine.home) in told
    told = machine.vae("other", HF_HUB_OFFLINE="1")["error"]
    assert told.startswith("source.hub: org/painter@other cannot be had: it is not in")


@pytest.mark.parametrize(
    ("asked", "environment", "told"),
    [
        ({"hub": "org/none"}, {}, ["org/none@main cannot", "no such repository, or a private one", "HF_TOKEN"]),
        ({"revision": "v9"}, {}, ["org/painter@v9 cannot", "no such revision", "source.revision, 'v9'"]),
        ({}, {"HF_ENDPOINT": NOWHERE}, ["org/painter@main cannot", f"the hub at {NOWHERE} (HF_ENDPOINT)", "refused"]),
    ],
)
def test_a_failed_download_names_what_is_wrong(
    machine: Machine, asked: dict[str, str], environment: dict[str, str], told: list[str]
) -> None:
    error = machine.vae(**asked, **environment)["error"]
    assert all(part in error for part in told), error


def test_a_gated_repository_wants_a_token_and_takes_one(machine: Machine) -> None:
    machine.hub.repositories["org/painter"].gated = True
    error = machine.vae()["error"]
    assert "model_index.json" in error
    assert f"accept its terms at {machine.hub.endpoint}/org/painter, and set HF_TOKEN" in error
    assert machine.vae(HF_TOKEN="hf_token")["commit"] == commit(1)


def test_a_file_that_breaks_off_is_named_and_not_taken_for_whole(machine: Machine) -> None:
    machine.hub.repositories["org/painter"].truncated = frozenset({VAE_WEIGHTS})
    error = machine.vae()["error"]
    assert error.startswith(f"source.hub: org/painter@main: {VAE_WEIGHTS} cannot be had: the hub at {machine.hub.endpoint}")
    machine.hub.repositories["org/painter"].truncated = frozenset()
    assert machine.vae()["commit"] == commit(1)


def test_a_branch_is_pinned_to_the_commit_that_it_means_at_the_start(machine: Machine) -> None:
    pinned = {"sources": [f"org/painter@{commit(1)}"] * 3}
    assert machine.process("pin", painter()) == pinned
    assert machine.process("pin", painter(), HF_HUB_OFFLINE="1") == pinned
    machine.hub.repositories["org/painter"].push(2)
    assert machine.vae(commit(1))["commit"] == commit(1)


def test_what_cannot_be_pinned_is_left_to_each_process(machine: Machine) -> None:
    assert machine.process("pin", painter("v9")) == {"sources": ["org/painter@v9"] * 3}
    assert machine.process("pin", painter(), HF_ENDPOINT=NOWHERE) == {"sources": ["org/painter@main"] * 3}

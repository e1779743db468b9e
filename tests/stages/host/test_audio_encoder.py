"""A kind of stage that Triptych doesn't ship: all that it takes is written here. It is looked up, loaded, hosted, batched, and its
results are remembered through the codec, with no edit under `stages/`."""

import asyncio
import io
import json
import wave
from collections.abc import AsyncIterator, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from numpy.typing import NDArray

from cache.codec import Arrays, decode, encode
from cache.memory import MemoryTier
from cache.tier import UNLABELLED, Label
from cache.tiered import TieredCache
from stages.checkpoints.checkpoint import LoadOptions, Source
from stages.checkpoints.memory_estimate import Need
from stages.checkpoints.part_files import PartFiles, Weights
from stages.checkpoints.stage_kind import Part, Stage, StageKind
from stages.contract.errors import ConfigurationError, InvalidRequest
from stages.contract.item import Item
from stages.contract.limits import BatchLimits, QueueLimits
from stages.contract.message import message
from stages.contract.recipe import Inputs, Recipe
from stages.contract.result import Result
from stages.host.host import StageHost
from stages.host.kinds.registry import KINDS, StageSpec, load, part_files, table_of
from tests.stages.fakes import FarTier, Gate

FRAME = 80  # samples

# ---- the module of a new kind of stage ----


@message
@dataclass(frozen=True, slots=True)
class AudioFeatures(Result):
    """`features`: [frames, width] float32. `loudest`: [] float32."""

    features: NDArray[np.float32]
    loudest: NDArray[np.float32]


@message
@dataclass(frozen=True, slots=True)
class EncodeAudio:
    """For an audio encoder, which makes `AudioFeatures`: a WAV file."""

    makes: ClassVar[type[Result]] = AudioFeatures
    data: bytes

    def needs(self) -> Sequence[Recipe[Any]]:
        return ()


class AudioEncoder:
    """A `OneShotStage[EncodeAudio, NDArray, AudioFeatures]`. Its work unit is a frame of sound."""

    device = "cpu"
    result_type = AudioFeatures

    def __init__(self, filters: NDArray[np.float32]) -> None:
        self._filters = filters
        self.gate = Gate()
        self.batches: list[int] = []

    def check(self, payload: EncodeAudio) -> None:
        if not payload.data.startswith(b"RIFF"):
            raise InvalidRequest("data is no WAV file", param="data")

    def weigh(self, payload: EncodeAudio) -> float:
        return len(payload.data) / 2 / FRAME

    def prepare(self, payload: EncodeAudio, inputs: Inputs) -> NDArray[np.float32]:
        with wave.open(io.BytesIO(payload.data)) as file:
            samples = np.frombuffer(file.readframes(file.getnframes()), np.int16).astype(np.float32) / np.float32(2**15)
        return samples[: len(samples) // FRAME * FRAME].reshape(-1, FRAME)

    def batch_key(self, item: NDArray[np.float32]) -> Hashable:
        return item.shape

    def cost(self, item: NDArray[np.float32]) -> float:
        return float(len(item))

    def run(self, batch: Sequence[NDArray[np.float32]]) -> Sequence[AudioFeatures]:
        self.gate.pass_through()
        self.batches.append(len(batch))
        found = np.stack(batch) @ self._filters
        return [AudioFeatures(one, np.asarray(np.abs(sound).max())) for one, sound in zip(found, batch, strict=True)]


def load_audio_encoder(part: Part) -> Stage:
    file = next(path for path in part.files if path.name == "filters.npy")
    return AudioEncoder(np.load(file).astype(part.options.dtype))


def needs(part: Part) -> Sequence[Need]:
    return [Need("filters", sum(path.stat().st_size for path in part.files))]


AUDIO_ENCODER = StageKind(
    "audio_encoder", "npy", PartFiles(("filters.json",), (Weights("", ("filters.npy",)),)), load_audio_encoder, needs
)

# ---- its entry ----

WITH_AUDIO = table_of(*KINDS.values(), AUDIO_ENCODER)


@pytest.fixture
def spec(tmp_path: Path) -> StageSpec:
    np.save(tmp_path / "filters.npy", np.random.default_rng(0).standard_normal((FRAME, 4)))
    (tmp_path / "filters.json").write_text(json.dumps({"width": 4}))
    source, batch = Source(folder=str(tmp_path)), BatchLimits(max_items=8, max_cost=100.0)
    return StageSpec("hear.audio_encoder", "audio_encoder", "npy", source, LoadOptions(), batch, QueueLimits())


@pytest.fixture
def encoder(spec: StageSpec) -> AudioEncoder:
    loaded = load(spec, WITH_AUDIO)
    assert isinstance(loaded.stage, AudioEncoder)
    assert loaded.dtype == "float32"
    return loaded.stage


@pytest.fixture
async def host(encoder: AudioEncoder, spec: StageSpec) -> AsyncIterator[StageHost]:
    host = StageHost(cache=TieredCache([MemoryTier(2**20)]))
    host.add(spec.name, encoder, batch=spec.batch, contents=spec.contents(WITH_AUDIO))
    yield host
    await host.close()


def sound(seed: int, frames: int = 5) -> bytes:
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(np.random.default_rng(seed).integers(-9999, 9999, frames * FRAME).astype(np.int16).tobytes())
    return out.getvalue()


def test_its_files_and_fingerprint_are_its_own(spec: StageSpec) -> None:
    assert part_files(spec, WITH_AUDIO) == AUDIO_ENCODER.files
    before = spec.whole(WITH_AUDIO)
    assert spec.source.folder is not None
    (Path(spec.source.folder) / "notes.txt").write_text("nothing of the part's")
    assert spec.whole(WITH_AUDIO) == before
    (Path(spec.source.folder) / "filters.json").write_text("{}")
    assert spec.whole(WITH_AUDIO) != before
    with pytest.raises(ConfigurationError, match="loader 'npy' cannot load a audio_encoder"):
        part_files(spec)


def test_what_it_says_that_it_needs_is_held_against_its_device(spec: StageSpec) -> None:
    greedy = replace(AUDIO_ENCODER, needs=lambda part: [Need("a very long echo", 2**60, ("echo",))])
    with pytest.raises(ConfigurationError, match=r"a very long echo .* GiB\).* lower echo"):
        load(spec, table_of(greedy))


async def test_its_results_are_those_of_each_sound_alone(host: StageHost, encoder: AudioEncoder) -> None:
    for seed in range(3):
        payload = EncodeAudio(sound(seed, frames=seed + 1))
        reply = await host.call("hear.audio_encoder", Item(str(seed), payload))
        assert isinstance(reply.value, AudioFeatures)
        (expected,) = encoder.run([encoder.prepare(payload, Inputs())])
        np.testing.assert_array_equal(reply.value.features, expected.features)
        assert reply.value.features.shape == (seed + 1, 4)


async def test_sounds_of_one_length_share_a_batch_within_the_bounds(host: StageHost, encoder: AudioEncoder) -> None:
    encoder.gate.close()
    calls = [
        asyncio.create_task(host.call("hear.audio_encoder", Item(f"{seed}", EncodeAudio(sound(seed, 30)))))
        for seed in range(8)
    ]
    await asyncio.to_thread(encoder.gate.wait_for, 1)
    while sum(host.metrics()[0].counters[count] for count in ("queued", "running")) < 8:  # noqa: ASYNC110  (threads count)
        await asyncio.sleep(0)
    encoder.gate.open()
    await asyncio.gather(*calls)
    assert sum(encoder.batches) == 8
    assert max(encoder.batches[1:]) == 3  # 30 frames each, and at most 100 in a batch


async def test_a_result_is_remembered_and_comes_back_as_it_was(
    spec: StageSpec, encoder: AudioEncoder, host: StageHost
) -> None:
    item = Item("1", EncodeAudio(sound(1)), name="sound one")
    made = await host.call("hear.audio_encoder", item)
    await host.settled()
    found = await host.call("hear.audio_encoder", replace(item, id="2"))
    assert (made.receipt.cache, found.receipt.cache) == ("miss", "memory")
    assert encoder.batches == [1]
    assert isinstance(found.value, AudioFeatures)
    for name, array in made.value.arrays().items():
        np.testing.assert_array_equal(found.value.arrays()[name], array)
        assert found.value.arrays()[name].dtype == array.dtype == np.float32


class EncodedTier(FarTier):
    """As Redis keeps values: as bytes, by the codec."""

    def __init__(self) -> None:
        super().__init__()
        self.stored: dict[str, bytes] = {}

    def get_many(self, keys: Sequence[str], label: Label = UNLABELLED) -> dict[str, Arrays]:
        return {key: decode(key, self.stored[key]) for key in keys if key in self.stored}

    def put_many(self, values: Mapping[str, Arrays], label: Label = UNLABELLED) -> None:
        self.stored |= {key: encode(key, value) for key, value in values.items()}


async def test_another_process_finds_it_in_the_far_tier(spec: StageSpec, encoder: AudioEncoder) -> None:
    far, item, values = EncodedTier(), Item("1", EncodeAudio(sound(1)), name="sound one"), []
    for _ in range(2):
        host = StageHost(cache=TieredCache([far]))
        host.add(spec.name, encoder, contents=spec.contents(WITH_AUDIO))
        values.append((await host.call(spec.name, item)).value)
        await host.close()
    assert encoder.batches == [1]
    assert len(far.stored) == 1
    np.testing.assert_array_equal(values[0].features, values[1].features)


async def test_what_it_refuses_is_refused_by_its_own_words(host: StageHost) -> None:
    with pytest.raises(InvalidRequest, match="data is no WAV file") as caught:
        await host.call("hear.audio_encoder", Item("1", EncodeAudio(b"a song")))
    assert caught.value.param == "data"

"""Which files of repositories, such as the hub has them, each part takes."""

from collections.abc import Mapping

import pytest

from stages.checkpoints.checkpoint import LoadOptions, Source
from stages.checkpoints.part_files import WHOLE_MODEL, PartFiles
from stages.contract.errors import ConfigurationError
from stages.diffusion.checkpoint.checkpoint_parts import SETTINGS
from stages.diffusion.checkpoint.checkpoint_parts import part_files as of_diffusers
from stages.engine.scheduling.scheduler import BatchLimits, QueueLimits
from stages.host.kinds.registry import StageSpec, part_files

LLAMA = (
    ".gitattributes",
    "LICENSE.txt",
    "README.md",
    "config.json",
    "generation_config.json",
    "model-00001-of-00002.safetensors",
    "model-00002-of-00002.safetensors",
    "model.safetensors.index.json",
    "pytorch_model-00001-of-00001.bin",
    "pytorch_model.bin.index.json",
    "onnx/model.onnx",
    "onnx/config.json",
    "original/consolidated.00.pth",
    "original/params.json",
    "original/tokenizer.model",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "additional_chat_templates/tools.jinja",
    "tf_model.h5",
    "model.fp16.safetensors",
    "model.safetensors.index.fp16.json",
    "llama-q4.gguf",
)
LLAMA_SETTINGS = [
    "LICENSE.txt",
    "additional_chat_templates/tools.jinja",
    "chat_template.jinja",
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
]
FLUX = (
    "README.md",
    "ae.safetensors",
    "flux1-schnell.safetensors",
    "model_index.json",
    "scheduler/scheduler_config.json",
    "text_encoder/config.json",
    "text_encoder/model.safetensors",
    "text_encoder/model.fp16.safetensors",
    "text_encoder/flax_model.msgpack",
    "text_encoder_2/config.json",
    "text_encoder_2/model-00001-of-00002.safetensors",
    "text_encoder_2/model-00002-of-00002.safetensors",
    "text_encoder_2/model.safetensors.index.json",
    "tokenizer/merges.txt",
    "tokenizer/tokenizer_config.json",
    "tokenizer/vocab.json",
    "tokenizer_2/spiece.model",
    "tokenizer_2/tokenizer.json",
    "tokenizer_2/tokenizer_config.json",
    "transformer/config.json",
    "transformer/diffusion_pytorch_model-00001-of-00001.safetensors",
    "transformer/diffusion_pytorch_model.safetensors.index.json",
    "unet_onnx/model.onnx",
    "vae/config.json",
    "vae/diffusion_pytorch_model.bin",
    "vae/diffusion_pytorch_model.safetensors",
    "vae/diffusion_pytorch_model.fp16.safetensors",
)
CLIP = (
    "open_clip_config.json",
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.bin",
    "pytorch_model.bin",
    "model.safetensors",
    "config.json",
    "tokenizer.json",
    "vocab.json",
    "merges.txt",
)


def weights(part: PartFiles, names: tuple[str, ...], files: Mapping[str, Mapping[str, object]] = {}) -> list[str]:
    return part.weights_in(names, lambda name: files[name])


def index(*shards: str) -> Mapping[str, object]:
    return {"metadata": {}, "weight_map": {f"tensor.{index}": shard for index, shard in enumerate(shards)}}


def spec(kind: str, loader: str) -> StageSpec:
    return StageSpec("s", kind, loader, Source(hub="org/name"), LoadOptions(), BatchLimits(), QueueLimits())


def test_of_a_language_model_one_format_is_taken_and_no_other_frameworks_files() -> None:
    listed = {"model.safetensors.index.json": index(*LLAMA[5:7])}
    assert weights(WHOLE_MODEL, LLAMA, listed) == [*LLAMA[5:7]]
    assert WHOLE_MODEL.settings_in(LLAMA) == sorted([*LLAMA_SETTINGS, "model.safetensors.index.json"])


def test_a_process_that_only_tokenizes_takes_no_weights_and_no_index() -> None:
    tokenizing = WHOLE_MODEL.without_weights()
    assert tokenizing.settings_in(LLAMA) == LLAMA_SETTINGS
    assert weights(tokenizing, LLAMA) == []
    assert weights(tokenizing, tuple(LLAMA_SETTINGS)) == []  # a machine that has no more in its cache


def test_pickled_weights_are_taken_where_there_are_no_others() -> None:
    names = tuple(name for name in LLAMA if "safetensors" not in name)
    assert weights(WHOLE_MODEL, names, {"pytorch_model.bin.index.json": index(LLAMA[8])}) == [LLAMA[8]]


def test_an_index_may_list_what_is_not_there_which_is_then_missed() -> None:
    listed = {"model.safetensors.index.json": index("model-00003-of-00003.safetensors")}
    assert weights(WHOLE_MODEL, LLAMA, listed) == ["model-00003-of-00003.safetensors"]


def test_a_gguf_file_stands_for_tokenizer_and_configuration_too() -> None:
    names = ("README.md", "config.json", "model-q4.gguf", "tokenizer.json")
    for part in (WHOLE_MODEL, WHOLE_MODEL.without_weights()):
        assert weights(part, names) == ["model-q4.gguf"]
        assert part.settings_in(names) == ["tokenizer.json"]  # with config.json it would be read as an ordinary folder


def test_one_of_several_gguf_files_is_nobodys_guess() -> None:
    with pytest.raises(ConfigurationError, match=r"2 files \*\.gguf \(a\.gguf, b\.gguf\).*source\.folder"):
        weights(WHOLE_MODEL, ("a.gguf", "b.gguf"))


@pytest.mark.parametrize(
    ("part", "files", "settings"),
    [
        (
            "text_encoder",
            ["text_encoder/model.safetensors", "text_encoder_2/model-00001-of-00002.safetensors"],
            [
                "model_index.json",
                "text_encoder/config.json",
                "text_encoder_2/config.json",
                "text_encoder_2/model.safetensors.index.json",
                "tokenizer/merges.txt",
                "tokenizer/tokenizer_config.json",
                "tokenizer/vocab.json",
                "tokenizer_2/spiece.model",
                "tokenizer_2/tokenizer.json",
                "tokenizer_2/tokenizer_config.json",
            ],
        ),
        (
            "denoiser",
            ["transformer/diffusion_pytorch_model-00001-of-00001.safetensors"],
            [
                "model_index.json",
                "scheduler/scheduler_config.json",
                "transformer/config.json",
                "transformer/diffusion_pytorch_model.safetensors.index.json",
            ],
        ),
        ("vae_decoder", ["vae/diffusion_pytorch_model.safetensors"], ["model_index.json", "vae/config.json"]),
    ],
)
def test_of_a_diffusers_repository_each_part_takes_its_folders(part: str, files: list[str], settings: list[str]) -> None:
    indexes = {
        "text_encoder_2/model.safetensors.index.json": index("model-00001-of-00002.safetensors"),
        "transformer/diffusion_pytorch_model.safetensors.index.json": index(
            "diffusion_pytorch_model-00001-of-00001.safetensors"
        ),
    }
    assert weights(of_diffusers(part), FLUX, indexes) == files
    assert of_diffusers(part).settings_in(FLUX) == settings


def test_what_a_painter_can_do_is_read_from_settings_alone() -> None:
    wanted = [name for name in FLUX if name == "model_index.json" or name.endswith("config.json")]
    assert SETTINGS.settings_in(FLUX) == sorted(wanted)
    assert weights(SETTINGS, FLUX) == []


def test_a_diffusers_part_with_pickled_weights_only_is_refused_by_name() -> None:
    names = ("vae/config.json", "vae/diffusion_pytorch_model.bin")
    with pytest.raises(ConfigurationError, match=r"none of .*vae/diffusion_pytorch_model\.safetensors"):
        weights(of_diffusers("vae_decoder"), names)


def test_of_an_open_clip_repository_its_own_files_are_taken() -> None:
    tower, whole = (part_files(spec(kind, "open_clip")) for kind in ("vision_encoder", "embedder"))
    assert (tower.settings_in(CLIP), weights(tower, CLIP)) == (["open_clip_config.json"], ["open_clip_model.safetensors"])
    assert weights(whole, CLIP) == ["open_clip_model.safetensors"]
    assert whole.settings_in(CLIP) == [
        "config.json",
        "merges.txt",
        "open_clip_config.json",
        "tokenizer.json",
        "vocab.json",
    ]


def test_an_index_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="no weight_map"):
        weights(WHOLE_MODEL, LLAMA, {"model.safetensors.index.json": {}})

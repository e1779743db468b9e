"""A checkpoint is data: no code of its own is run, and no pickle of it is opened, whoever published it."""

import ast
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

import cache as cache_room
import demo
import pipelines
import stages
from stages.checkpoints.checkpoint import LoadOptions, Source, resolve
from stages.contract.errors import ConfigurationError
from tests.stages.llm.tiny_models import save_decoder
from tests.stages.vision.tiny_clip import MODEL, save_clip

FOLDERS = [Path(str(package.__file__)).parent for package in (cache_room, demo, pipelines, stages)]

SAID: dict[str, dict[str, object]] = {
    "from_pretrained": {"trust_remote_code": False},
    "create_model_and_transforms": {"weights_only": True},
    "create_model": {"weights_only": True},
    "torch.load": {"weights_only": True},
}
"""What a call must say, whatever its library's default is. `from_pretrained` of a model must say of its weights, too."""
OF_WEIGHTS: Sequence[dict[str, object]] = ({"weights_only": True}, {"use_safetensors": True})
WITHOUT_WEIGHTS = ("Config", "Tokenizer", "Processor", "Scheduler")  # ends of the names of classes that have none
ABOUT_TOKENIZERS = "prompt_tokenizer.py"  # whatever it reads is one
NEVER = {"torch.hub.load", "yaml.load", "yaml.unsafe_load", "joblib.load", "pickle.load", "dill.loads"}


@dataclass(frozen=True, slots=True)
class Said:
    """A call: where it stands, what is called, and the arguments that it gives by name as constants."""

    where: str
    called: str
    constants: Mapping[str, object]

    def says(self, wanted: dict[str, object]) -> bool:
        return wanted.items() <= self.constants.items()


def said(node: ast.Call, where: str = "") -> Said:
    given = {word.arg: word.value.value for word in node.keywords if word.arg and isinstance(word.value, ast.Constant)}
    return Said(where, ast.unparse(node.func), given)


@cache
def calls() -> Sequence[Said]:
    """Every call in the source."""
    return [
        said(node, f"{path.relative_to(folder.parent)}:{node.lineno}")
        for folder in FOLDERS
        for path in sorted(folder.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
    ]


def is_silent(call: Said) -> bool:
    return not call.says(SAID.get(call.called) or SAID.get(call.called.rpartition(".")[2], {}))


def test_every_call_that_reads_a_checkpoint_says_that_it_trusts_no_code() -> None:
    assert [call.where for call in calls() if is_silent(call)] == []
    assert sum(call.called.endswith("from_pretrained") for call in calls()) > 10


def test_every_call_that_reads_weights_says_that_it_opens_no_pickle() -> None:
    found = [
        call.where
        for call in calls()
        if call.called.endswith(".from_pretrained") and ABOUT_TOKENIZERS not in call.where
        if not call.called.removesuffix(".from_pretrained").endswith(WITHOUT_WEIGHTS)
        if not any(call.says(safe) for safe in OF_WEIGHTS)
    ]
    assert found == []


def test_nothing_is_called_that_only_runs_what_it_reads() -> None:
    assert [call.where for call in calls() if call.called in NEVER] == []


@pytest.mark.parametrize(
    ("line", "refused"),
    [
        ("AutoModel.from_pretrained(folder)", True),
        ("AutoModel.from_pretrained(folder, trust_remote_code=trust)", True),
        ("AutoModel.from_pretrained(folder, trust_remote_code=True)", True),
        ("AutoModel.from_pretrained(folder, **more)", True),
        ("AutoModel.from_pretrained(folder, trust_remote_code=False, **more)", False),
        ("torch.load(path)", True),
        ("torch.load(path, weights_only=True)", False),
        ("json.load(file)", False),
    ],
)
def test_the_rule_tells_calls_apart(line: str, refused: bool) -> None:
    (node,) = [node for node in ast.walk(ast.parse(line)) if isinstance(node, ast.Call)]
    assert is_silent(said(node)) is refused


# ---- checkpoints that ask for it ----


@pytest.fixture(scope="module")
def language_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_decoder("llama", tmp_path_factory.mktemp("llama"))


@pytest.fixture
def bomb(tmp_path: Path) -> Path:
    """A folder with a module that leaves a trace when it is run."""
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    (folder / "foreign.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\nclass Foreign: ...\n")
    return folder


def change(path: Path, **fields: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def load_llm(folder: Path) -> None:
    from stages.llm.model.loading import load_language_model

    load_language_model(resolve(Source(folder=str(folder))), LoadOptions())


def load_tokenizer(folder: Path) -> None:
    from stages.llm.model.tokenizer import load_tokenizer

    load_tokenizer(folder)


def load_embedder(folder: Path) -> None:
    from stages.vision.clip.embedder import ClipEmbedder

    ClipEmbedder.load(resolve(Source(folder=str(folder))), LoadOptions())


@pytest.mark.models
@pytest.mark.parametrize("load", [load_llm, load_tokenizer])
def test_a_language_model_that_brings_code_is_refused_without_asking(
    bomb: Path, language_model: Path, load: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("builtins.input", lambda *_: "y")  # whoever sits at the terminal is not asked
    shutil.copytree(language_model, bomb, dirs_exist_ok=True)
    change(bomb / "config.json", model_type="foreign", auto_map={"AutoConfig": "foreign.Foreign"})
    change(bomb / "tokenizer_config.json", tokenizer_class="Foreign", auto_map={"AutoTokenizer": ["foreign.Foreign", None]})
    with pytest.raises(ConfigurationError):
        load(bomb)
    assert not (bomb.parent / "ran").exists()


@pytest.mark.models
def test_an_open_clip_folder_can_not_ask_for_its_tokenizers_code(bomb: Path) -> None:
    save_clip(bomb)
    text = {**MODEL["text_cfg"], "hf_tokenizer_name": "any/name", "tokenizer_kwargs": {"trust_remote_code": True}}  # type: ignore[dict-item]
    change(bomb / "open_clip_config.json", model_cfg={**MODEL, "text_cfg": text})
    (bomb / "config.json").write_text(json.dumps({"model_type": "foreign"}))
    (bomb / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "Foreign", "auto_map": {"AutoTokenizer": ["foreign.Foreign", None]}})
    )
    with pytest.raises(ConfigurationError):
        load_embedder(bomb)
    assert not (bomb.parent / "ran").exists()

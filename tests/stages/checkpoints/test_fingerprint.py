"""What a part is called by: the content of its files, all of it, and nothing but that."""

import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from stages.checkpoints.checkpoint import Contents, LoadOptions, Source
from stages.contract.engine import EngineIdentity
from stages.contract.errors import ConfigurationError
from stages.contract.limits import BatchLimits, QueueLimits
from stages.host.kinds.registry import StageSpec
from stages.host.remembered.origin import Origin, remembered_as

FILES = {"config.json": b'{"layers": 2}', "tokenizer.json": b"{}", "model.safetensors": b"weights" * 1000}


def folder_of(path: Path, **changed: bytes) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    for name, content in FILES.items():
        (path / name).write_bytes(changed.get(name.partition(".")[0], content))
    return path


def spec_of(folder: Path, deployed: Contents | None = None) -> StageSpec:
    source = Source(folder=str(folder))
    return StageSpec("m.llm", "llm", "transformers", source, LoadOptions(), BatchLimits(), QueueLimits(), deployed=deployed)


def test_copies_of_a_folder_are_the_same_whatever_their_times(tmp_path: Path) -> None:
    one, other = folder_of(tmp_path / "one"), folder_of(tmp_path / "other")
    os.utime(other / "model.safetensors", (0, 0))
    (other / "README.md").write_text("no part of it")
    assert spec_of(one).contents() == spec_of(other).contents()


def test_what_only_prepares_input_is_told_apart_from_the_weights(tmp_path: Path) -> None:
    plain = spec_of(folder_of(tmp_path / "a")).contents()
    weights = spec_of(folder_of(tmp_path / "b", model=b"others!" * 1000)).contents()
    tokens = spec_of(folder_of(tmp_path / "c", tokenizer=b"[]")).contents()
    assert plain.settings == weights.settings != tokens.settings
    assert len({plain.whole, weights.whole, tokens.whole}) == 3
    assert plain.settings in plain
    assert plain.whole in plain
    assert weights.whole not in plain


@pytest.mark.parametrize("how", ["in place", "renamed over", "times set back"])
def test_other_weights_of_the_same_size_are_others_at_once(tmp_path: Path, how: str) -> None:
    folder = folder_of(tmp_path / "a")
    file = folder / "model.safetensors"
    before, times = spec_of(folder).whole(), file.stat()
    changed = file.read_bytes()[:-1] + b"x"
    if how == "renamed over":
        (folder / "new").write_bytes(changed)
        os.replace(folder / "new", file)
    else:
        file.write_bytes(changed)
    if how == "times set back":
        os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
        assert file.stat().st_mtime_ns == times.st_mtime_ns
    assert spec_of(folder).whole() != before


def test_a_file_that_has_lain_there_for_a_while_is_read_once_a_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = folder_of(tmp_path / "a")
    later = time.time_ns() + 10**11
    monkeypatch.setattr(time, "time_ns", lambda: later)
    before = spec_of(folder).whole()
    opened: list[Path] = []
    monkeypatch.setattr(Path, "open", lambda path, mode: opened.append(path))
    assert spec_of(folder).whole() == before
    assert opened == []


def test_two_processes_with_unlike_weights_under_one_path_never_share_a_name(tmp_path: Path) -> None:
    """A folder on two machines: a result made with the one is never found by the other, whoever asks for it under whatever name."""
    identity = EngineIdentity("m.llm", "cpu")
    here = Origin.of(identity, spec_of(folder_of(tmp_path / "models")).whole())
    there = Origin.of(identity, spec_of(folder_of(tmp_path / "models", model=b"finetun" * 1000)).whole())
    assert remembered_as("asked for", here.key) != remembered_as("asked for", there.key)


def test_a_process_that_finds_something_else_than_was_deployed_refuses_it(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "a")
    deployed = spec_of(folder).contents()
    assert spec_of(folder, deployed).contents() == deployed
    folder_of(folder, model=b"finetun" * 1000)
    assert spec_of(folder, deployed).settings_read() == deployed.settings  # who only tokenizes is not concerned
    with pytest.raises(ConfigurationError, match="holds other files"):
        spec_of(folder, deployed).contents()
    folder_of(folder, tokenizer=b"[]")
    with pytest.raises(ConfigurationError, match="deploy again"):
        spec_of(folder, deployed).settings_read()


def test_a_commit_of_the_hub_is_its_own_content(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stages.checkpoints.checkpoint.commit_of", lambda repository, revision: revision)
    spec = replace(spec_of(Path()), source=Source(hub="org/model", revision="1" * 40))
    assert spec.contents().settings == spec.contents().whole
    assert spec.whole() != replace(spec, source=Source(hub="org/model", revision="2" * 40)).whole()

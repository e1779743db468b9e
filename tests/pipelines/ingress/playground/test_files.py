"""What the page is made of."""

import re
import tomllib
from pathlib import Path

import pipelines.ingress.playground
from pipelines.ingress.playground import page_files

FOLDER = Path(pipelines.ingress.playground.__file__).parent
ROOT = FOLDER.parents[2]


def test_every_file_of_the_page_is_installed_with_the_package() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    patterns = settings["tool"]["setuptools"]["package-data"]["pipelines.ingress.playground"]
    installed = {path.relative_to(FOLDER).as_posix() for pattern in patterns for path in FOLDER.glob(pattern)}
    assert installed == set(page_files())


def test_whatever_a_file_of_the_page_names_is_there() -> None:
    files = page_files()
    for name in files:
        text = (FOLDER / name).read_text()
        for found in re.findall(r'from "(.+?)"', text):
            assert (FOLDER / name).parent.joinpath(found).resolve().relative_to(FOLDER).as_posix() in files, (name, found)
        for found in re.findall(r'(?:src|href)="playground/(.+?)"', text):
            assert found in files, (name, found)


def test_every_element_that_a_script_asks_for_by_its_id_is_on_the_page() -> None:
    """But for the one that is made anew for each model."""
    ids = set(re.findall(r'\bid="(.+?)"', (FOLDER / "index.html").read_text())) | {"size"}
    asked = {found for name in page_files() for found in re.findall(r'\$\("(.+?)"\)', (FOLDER / name).read_text())}
    assert asked <= ids

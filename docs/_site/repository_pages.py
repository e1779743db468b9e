"""The site's pages that stand elsewhere in the repository, and what becomes of links that lead out of docs/.

Decides which files of the root are pages; a link to one leads to its page, a link to any other file of the repository, which the site
doesn't have, becomes the file's name. A link to nothing stays, so that a strict build fails of it.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
PAGES = {
    "ARCHITECTURE.md": "how-it-works.md",
    "SECURITY.md": "security.md",
    "CHANGELOG.md": "changes.md",
}
LINK = re.compile(r"(?<!!)\[([^\]]*)\]\(([^)\s#:]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for source, page in PAGES.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    source = Path(page.file.abs_src_path or "").relative_to(ROOT)
    return LINK.sub(lambda link: _link(link, source.parent.as_posix(), page.file.src_uri), markdown)


def _link(link: re.Match[str], folder: str, page: str) -> str:
    text, target, anchor = link[1], link[2], link[3] or ""
    path = posixpath.normpath(posixpath.join(folder, target))
    to = PAGES.get(path) or (path.removeprefix("docs/") if path.startswith("docs/") else None)
    if to is not None:
        return f"[{text}]({posixpath.relpath(to, posixpath.dirname(page) or '.')}{anchor})"
    return f"{text} (`{path}`)" if (ROOT / path).exists() and path not in text else text if (ROOT / path).exists() else link[0]

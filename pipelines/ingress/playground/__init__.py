"""GET /: a page to try the models in. Decides how its files are served: read once, with a policy that lets nothing else run.

The page is a client like any other; it uses the public routes only. Knows no pipelines.
"""

from dataclasses import dataclass
from pathlib import Path

from fastapi import FastAPI, Response
from starlette.exceptions import HTTPException

POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data: blob:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
HEADERS = {
    "content-security-policy": POLICY,
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
    "cross-origin-opener-policy": "same-origin",
}
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


@dataclass(frozen=True, slots=True)
class PageFile:
    content: bytes
    media_type: str

    def response(self) -> Response:
        return Response(self.content, media_type=self.media_type, headers=HEADERS)


def page_files() -> dict[str, PageFile]:
    """Path within this folder -> file, for every file of the page."""
    folder = Path(__file__).parent
    found = [path for path in sorted(folder.rglob("*")) if path.suffix in TYPES]
    return {path.relative_to(folder).as_posix(): PageFile(path.read_bytes(), TYPES[path.suffix]) for path in found}


def add_playground(app: FastAPI) -> None:
    """Adds GET / and GET /playground/{path}; neither is part of the published API."""
    files = page_files()

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return files["index.html"].response()

    @app.get("/playground/{path:path}", include_in_schema=False)
    async def file(path: str) -> Response:
        if path not in files:
            raise HTTPException(404)
        return files[path].response()

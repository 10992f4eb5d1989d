"""HTTP: the two pages and their files."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from string import Template

from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from service.answers.schemas import ModelInfo, Welcome
from service.page.security import SECURITY_HEADERS
from service.release import release
from service.request.dependencies import RuntimeOf
from service.request.headers import list_header
from service.runtime import Runtime

PAGE_PATH = "/"
DOCS_PATH = "/docs"
STATIC_PATH = "/static"
SWAGGER_PATH = f"{STATIC_PATH}/swagger"

_FOLDER = Path(__file__).parent
_SWAGGER_FOLDER = Path(str(files("fastapi_swagger") / "resources"))


class PageFiles(StaticFiles):
    """Files of a page; a browser asks each time whether they have changed, so that an upgrade is seen at once."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        """The file, or 304 where the browser has it."""
        response = await super().get_response(path, scope)
        response.headers.update({**SECURITY_HEADERS, "Cache-Control": "no-cache"})
        return response


def add_pages(app: FastAPI) -> None:
    """Add ``/``, ``/docs`` and their files to ``app``, which must have been made without its own ``/docs``."""
    page = Template((_FOLDER / "index.html").read_text(encoding="utf-8"))
    docs = (_FOLDER / "docs.html").read_text(encoding="utf-8")

    @app.get(PAGE_PATH, include_in_schema=False, response_model=None)
    async def root(request: Request, runtime: RuntimeOf) -> Response | Welcome:
        """The page for browsers; links for every other client."""
        if _wants_html(list_header(request.headers, "accept")):
            return _html(page.substitute(_page_values(runtime)), vary=True)
        return _welcome(request, runtime)

    @app.get(DOCS_PATH, include_in_schema=False)
    async def api_docs() -> Response:
        """The API, to read and to try."""
        return _html(docs)

    app.mount(SWAGGER_PATH, PageFiles(directory=_SWAGGER_FOLDER))
    app.mount(STATIC_PATH, PageFiles(directory=_FOLDER / "static"))


def _wants_html(accept: str) -> bool:
    return "text/html" in (part.partition(";")[0].strip().lower() for part in accept.split(","))


def _page_values(runtime: Runtime) -> dict[str, int | str]:
    settings = runtime.settings
    return {
        "max_image_bytes": settings.max_image_bytes,
        "max_image_pixels": settings.max_image_pixels,
        "max_timeout_ms": round(1000 * (settings.max_request_timeout_s or 0)),
        "release": release(),
    }


def _html(text: str, *, vary: bool = False) -> Response:
    headers = {**SECURITY_HEADERS, "Cache-Control": "no-cache"}
    return HTMLResponse(text, headers={**headers, "Vary": "Accept"} if vary else headers)


def _welcome(request: Request, runtime: Runtime) -> Welcome:
    url = f"{request.url_for('segment')}?format=color"
    model = ModelInfo(name=runtime.models.default, version=runtime.models.default_version)
    example = f"curl -F file=@photo.png '{url}' -o mask.png"
    return Welcome.model_validate(
        {"service": "ecenet", "version": release(), "model": model, "docs": DOCS_PATH, "try": example}
    )

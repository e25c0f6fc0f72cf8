"""Files as they are; nothing is built, and nothing is loaded from elsewhere."""

from functools import lru_cache
from importlib.resources import files

from fastapi import APIRouter, HTTPException
from fastapi.responses import RedirectResponse, Response

_TYPES = {
    "index.html": "text/html; charset=utf-8",
    "docs.html": "text/html; charset=utf-8",
    "console.css": "text/css; charset=utf-8",
    "console.js": "text/javascript; charset=utf-8",
    "docs.js": "text/javascript; charset=utf-8",
    "page.js": "text/javascript; charset=utf-8",
}

router = APIRouter(include_in_schema=False)


@router.get("/", include_in_schema=False)
async def root() -> RedirectResponse:
    return RedirectResponse("/console")


@router.get("/console")
async def console() -> Response:
    return _file("index.html")


@router.get("/docs")
async def docs() -> Response:
    return _file("docs.html")


@router.get("/console/{asset}")
async def asset(asset: str) -> Response:
    if asset not in _TYPES:
        raise HTTPException(404)
    return _file(asset)


def _file(name: str) -> Response:
    return Response(_content(name), media_type=_TYPES[name])


@lru_cache
def _content(name: str) -> bytes:
    return files("app.console").joinpath("static", name).read_bytes()

"""Files as they are; nothing is built, and nothing is loaded from elsewhere."""

from functools import lru_cache
from importlib.resources import files
from pathlib import PurePosixPath

from fastapi import APIRouter, HTTPException
from fastapi.responses import RedirectResponse, Response

_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".txt": "text/plain; charset=utf-8",
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


@router.get("/console/{asset:path}")
async def asset(asset: str) -> Response:
    if asset not in _content():
        raise HTTPException(404)
    return _file(asset)


def _file(name: str) -> Response:
    return Response(_content()[name], media_type=_TYPES[PurePosixPath(name).suffix])


@lru_cache
def _content() -> dict[str, bytes]:
    """All that is served, by name: nothing else can be asked for."""
    static = files("app.console") / "static"
    folders = {"": static, "vendor/": static / "vendor"}
    return {
        prefix + file.name: file.read_bytes()
        for prefix, folder in folders.items()
        for file in folder.iterdir()
        if file.is_file()
    }

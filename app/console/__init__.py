"""The web console: a page that speaks to the public API like any other client."""

from app.console.pages import router

__all__ = ["router"]

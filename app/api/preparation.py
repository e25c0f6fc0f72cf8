"""Compiling the loops over requests' bytes before somebody waits for them."""

from app.api import itemlists, lines


def prepare() -> None:
    """Compile what lists of items and imports need, or load it compiled."""
    itemlists.prepare()
    lines.prepare()

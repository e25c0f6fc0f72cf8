"""What was shown to a user, and waits for the reward of what was chosen for them."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class RankedEvent:
    id: str
    user: str
    chosen: dict[str, Any]
    """An option, as preferences take it on the wire."""
    others: tuple[dict[str, Any], ...]
    """What else could have been chosen."""
    context: dict[str, Any] | None
    active: bool
    """Whether the user has seen it; a reward counts only then."""
    reward: float | None = None

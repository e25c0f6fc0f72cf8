"""How many requests a key may make: counted in this process, in windows of a minute that begin with a first request."""

import math
import time
from dataclasses import dataclass
from functools import lru_cache

from limits import RateLimitItem, RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import FixedWindowRateLimiter

from app.domain import ApiKey, RateLimitedError

WINDOW_SECONDS = 60


@dataclass(frozen=True, slots=True)
class Allowance:
    """What a key has left of its window."""

    limit: int
    remaining: int
    reset_seconds: int

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """As draft-ietf-httpapi-ratelimit-headers has them."""
        return [
            (b"ratelimit-policy", f'"key";q={self.limit};w={WINDOW_SECONDS}'.encode()),
            (b"ratelimit", f'"key";r={self.remaining};t={self.reset_seconds}'.encode()),
        ]


class RateLimiter:
    """One a process.

    Parameters
    ----------
    requests_per_minute
        For keys without a limit of their own; None: as many as they like, which costs nothing to find out.
    """

    def __init__(self, requests_per_minute: int | None) -> None:
        self._default = requests_per_minute
        self._limiter = FixedWindowRateLimiter(MemoryStorage())

    def limit_of(self, key: ApiKey) -> int | None:
        return self._default if key.requests_per_minute is None else key.requests_per_minute

    def spend(self, key: ApiKey) -> tuple[Allowance | None, RateLimitedError | None]:
        """Count a request; what is left, and the refusal if that was too many. Nothing for a key without a limit."""
        limit = self.limit_of(key)
        if limit is None:
            return None, None
        item = _per_minute(limit)
        granted = self._limiter.hit(item, key.id)
        window = self._limiter.get_window_stats(item, key.id)
        reset = max(1, math.ceil(window.reset_time - time.time()))
        if granted:
            return Allowance(limit, window.remaining, reset), None
        return Allowance(limit, 0, reset), RateLimitedError(
            f"this API key may make {limit:,} requests a minute; the next one is taken in {reset} s.",
            retry_after_seconds=reset,
        )


@lru_cache(maxsize=1000)
def _per_minute(limit: int) -> RateLimitItem:
    return RateLimitItemPerMinute(limit)

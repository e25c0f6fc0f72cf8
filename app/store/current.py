"""What this process remembers of the database as it is now: keys, environments, how much users have said.

It is dropped when a notice tells of a change, and read anew. A read that a notice overtakes is the answer of those who
began to wait before the notice, and is not remembered. While notices cannot be heard, nothing is remembered.
"""

import asyncio
import hashlib
import hmac
import secrets
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Generic, TypeVar

from app.domain import ApiKey
from app.store.database import Database, Notice
from app.store.environments import EnvironmentState, environment_state
from app.store.keys import authenticate
from app.store.notices import Notices
from app.store.users import UserCount, serving_state, user_count

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

KEY_SECONDS = 30.0
# A key is read again after this time even if no notice told of it.

MAX_KEYS = 10_000
MAX_ENVIRONMENTS = 10_000
MAX_USERS = 500_000
# Of each environment; some 300 bytes each.

_DIGEST_KEY = secrets.token_bytes(32)


class Remembered(Generic[K, V]):
    """Values by key until they are dropped; what several ask for at once is read once.

    Parameters
    ----------
    capacity
        How many values are kept: those that were read last.
    """

    def __init__(self, notices: Notices, capacity: int) -> None:
        self._notices = notices
        self._capacity = capacity
        self._kept: OrderedDict[K, V] = OrderedDict()
        self._pending: dict[K, asyncio.Task[V]] = {}

    def __len__(self) -> int:
        return len(self._kept)

    def peek(self, key: K) -> V | None:
        return self._kept.get(key)

    async def get(self, key: K, read: Callable[[], Awaitable[V]]) -> V:
        """The value of a key, remembered or read now; a failure is nobody's value."""
        if key in self._kept:
            return self._kept[key]
        if not self._notices.is_listening:
            return await read()
        if key not in self._pending:
            self._pending[key] = asyncio.create_task(self._read(key, read))
            self._pending[key].add_done_callback(_retrieve)
        return await asyncio.shield(self._pending[key])

    def drop(self, key: K) -> None:
        """Forget a value. A read of it that is under way began too early for those who ask from now on."""
        self._kept.pop(key, None)
        self._pending.pop(key, None)

    def drop_if(self, doomed: Callable[[K, V | None], bool]) -> None:
        """Forget what is doomed, by key and value; None stands for one that is being read."""
        for key in [key for key, value in self._kept.items() if doomed(key, value)]:
            self.drop(key)
        for key in [key for key in self._pending if doomed(key, None)]:
            self.drop(key)

    async def _read(self, key: K, read: Callable[[], Awaitable[V]]) -> V:
        this = asyncio.current_task()
        try:
            value = await read()
            if self._pending.get(key) is this:
                self._kept[key] = value
                while len(self._kept) > self._capacity:
                    self._kept.popitem(last=False)
            return value
        finally:
            if self._pending.get(key) is this:
                del self._pending[key]


@dataclass(frozen=True, slots=True)
class _Verified:
    key: ApiKey
    until: float


class Current:
    """One per process; used in one event loop, the one that `notices` listens in."""

    def __init__(self, db: Database, notices: Notices) -> None:
        self._db = db
        self._notices = notices
        self._keys = Remembered[bytes, _Verified](notices, MAX_KEYS)
        self._environments = Remembered[str, EnvironmentState](notices, MAX_ENVIRONMENTS)
        self._users: dict[int, Remembered[str, UserCount]] = {}
        self.tell(self._forget)

    @property
    def is_listening(self) -> bool:
        return self._notices.is_listening

    def tell(self, listener: Callable[[Notice], None]) -> None:
        """Call the listener with every change, of this process and of others."""
        self._notices.tell(listener)
        self._db.tell(listener)

    async def key(self, secret: str) -> ApiKey:
        """The API key that a secret belongs to.

        Raises
        ------
        UnauthenticatedError
            No such key, a wrong secret, or a revoked key: the message doesn't tell which.
        """
        digest = hmac.digest(_DIGEST_KEY, secret.encode(), hashlib.sha256)
        known = self._keys.peek(digest)
        if known is not None and known.until < time.monotonic():
            self._keys.drop(digest)
        return (await self._keys.get(digest, lambda: self._verify(secret))).key

    async def environment(self, name: str) -> EnvironmentState:
        """
        Raises
        ------
        NotFoundError
            There is no such environment; that is asked every time.
        """
        return await self._environments.get(name, lambda: environment_state(self._db, name))

    async def user(self, name: str, user: str, after: int | None = None) -> tuple[EnvironmentState, UserCount]:
        """An environment, and how much one of its users has said, at least as new as the transaction `after`."""
        if after is None or self._notices.has_heard(after):
            environment = await self.environment(name)
            here = environment.id
            users = self._users.get(here)
            if users is None:
                users = self._users[here] = Remembered(self._notices, MAX_USERS)
            return environment, await users.get(user, lambda: user_count(self._db, here, user))
        while True:
            state = await serving_state(self._db, name, user)
            environment = await self.environment(name)
            if environment.versions != state.versions:
                self._environments.drop(name)
                environment = await self.environment(name)
            if environment.id == state.environment_id:
                return environment, UserCount(state.user_key, state.feedback_count)

    async def _verify(self, secret: str) -> _Verified:
        begun = time.monotonic()
        key = await authenticate(self._db, secret)
        left = KEY_SECONDS
        if key.expires_at is not None:
            left = min(left, (key.expires_at - datetime.now(UTC)).total_seconds())
        return _Verified(key, begun + left)

    def _forget(self, notice: Notice) -> None:
        match notice:
            case Notice(environment_id=None, key_id=None):
                self._keys.drop_if(lambda _key, _value: True)
                self._environments.drop_if(lambda _key, _value: True)
                self._users.clear()
            case Notice(key_id=str(key_id)):
                self._keys.drop_if(lambda _key, value: value is None or value.key.id == key_id)
            case Notice(environment_id=here, users=None):
                self._environments.drop_if(lambda _key, value: value is None or value.id == here)
            case Notice(environment_id=int(here), users=()):
                self._users.pop(here, None)
            case Notice(environment_id=int(here), users=tuple(users)) if here in self._users:
                for user in users:
                    self._users[here].drop(user)


def _retrieve(task: "asyncio.Task[V]") -> None:
    """Where every caller has gone away, nobody else looks at the failure."""
    if not task.cancelled():
        task.exception()

"""What one process changed, as all the others hear it: notices that PostgreSQL delivers in the order of commits.

A notice is sent inside the transaction that it tells of, once a transaction: NOTIFY serialises commits, so a batch
sends one and not one a row. Its *position* is the transaction's number. Numbers are drawn before the commit, so notices
do not come in their order; each therefore also carries the *horizon* below which all transactions had ended when it was
sent. Whoever has heard a notice has heard everything below its horizon. A long list of users takes several notices, of
which the last has the position and the others 0.

    u <position> <horizon> <environment> <user> <user> ...   what these users said changed; `*` stands for all users
    x <position> <horizon> <environment> <user> <number>      this user, who had this number, was erased
    e <position> <horizon> <environment>                      definition, items or published model changed
    k <position> <horizon> <key>                              an API key changed
"""

import asyncio
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress

import psycopg
import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from app.store.database import EVERYTHING, Notice, driver_connection, note_change
from app.store.patience import patient

log = structlog.get_logger()

CHANNEL = "psharelora_notices"

PAYLOAD_BYTES = 7_900
# PostgreSQL takes less than 8,000 with the numbers in front.

MAX_PAYLOADS = 8
# A batch that tells of more users than fit into these tells of all users of its environment.

EVERYBODY = "*"

PROBE_SECONDS = 0.8
# How often a connection that says nothing is asked whether it is still there, and how long it may take to answer.

CONNECT_SECONDS = 5.0

RECONNECT_SECONDS = 0.2

_Connection = patient(PROBE_SECONDS)

_ANNOUNCE = """
    SELECT here.position, pg_notify(
        %(channel)s,
        concat(
            said.kind, ' ', CASE WHEN said.number = %(n)s THEN here.position ELSE 0 END, ' ', here.horizon, said.rest
        )
    )
    FROM (
        SELECT CAST(CAST(pg_current_xact_id() AS text) AS bigint) AS position,
               CAST(CAST(pg_snapshot_xmin(pg_current_snapshot()) AS text) AS bigint) AS horizon
    ) AS here, unnest(CAST(%(kinds)s AS text[]), CAST(%(rests)s AS text[])) WITH ORDINALITY AS said (kind, rest, number)
"""
_HORIZON = "SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint"


async def announce(connection: AsyncConnection, said: Mapping[int, Collection[str]]) -> int:
    """Tell every process, at the commit of this transaction, that users' feedback changed; its position.

    Parameters
    ----------
    said
        User ids by environment id, none for all its users; one call a transaction, however many there are.
    """
    note_change(connection, *(Notice(key, tuple(users)) for key, users in said.items()))
    return await _announce(connection, [("u", rest) for key, users in said.items() for rest in _user_lists(key, users)])


async def announce_erasure(connection: AsyncConnection, environment_id: int, user: str, user_key: int) -> int:
    """Likewise, that a user was erased, whose number nobody may keep anything under."""
    note_change(connection, Notice(environment_id, (user,), erased_key=user_key))
    return await _announce(connection, [("x", f" {environment_id} {user} {user_key}")])


async def announce_environment(connection: AsyncConnection, environment_id: int) -> int:
    """Likewise, that an environment's definition, items or published model changed, or that it is gone."""
    note_change(connection, Notice(environment_id))
    return await _announce(connection, [("e", f" {environment_id}")])


async def announce_key(connection: AsyncConnection, key_id: str) -> int:
    """Likewise, that an API key changed."""
    note_change(connection, Notice(key_id=key_id))
    return await _announce(connection, [("k", f" {key_id}")])


async def _announce(connection: AsyncConnection, said: list[tuple[str, str]]) -> int:
    kinds, rests = [kind for kind, _ in said], [rest for _, rest in said]
    values = {"channel": CHANNEL, "kinds": kinds, "rests": rests, "n": len(said)}
    # By the driver, so that it is sent together with what it tells of where that is a pipeline.
    driver = await driver_connection(connection)
    row = await (await driver.execute(_ANNOUNCE, values)).fetchone()
    assert row is not None, "there is something to announce"
    return int(row[0])


def _user_lists(environment_id: int, users: Collection[str]) -> list[str]:
    """The ends of as many payloads as the users take."""
    ends, current, room = [], [f" {environment_id}"], 0
    for user in users:
        if room + len(user) + 1 > PAYLOAD_BYTES - 100:
            ends.append(" ".join(current))
            current, room = [f" {environment_id}"], 0
        current.append(user)
        room += len(user) + 1
    ends.append(" ".join(current))
    return ends if len(ends) <= MAX_PAYLOADS else [f" {environment_id} {EVERYBODY}"]


class Notices:
    """The ear of a process, on a connection of its own; made and used in one event loop, closed by who made it.

    While the connection is lost, `is_listening` is false and nothing that is remembered may be trusted; listeners are
    told that everything may have changed before it is true again.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._told: list[Callable[[Notice], None]] = []
        self._heard: set[int] = set()
        self._horizon = 0
        self._listening = False
        self._task: asyncio.Task[None] | None = None

    @property
    def is_listening(self) -> bool:
        return self._listening

    def tell(self, listener: Callable[[Notice], None]) -> None:
        """Call the listener with every notice from now on."""
        self._told.append(listener)

    def has_heard(self, position: int) -> bool:
        """Whether whatever is remembered here is at least as new as the transaction with this position."""
        return self._listening and (position < self._horizon or position in self._heard)

    async def start(self) -> None:
        """Begin to listen, and wait for the first connection, but no longer than a probe may take."""
        first = asyncio.Event()
        self._task = asyncio.create_task(self._listen_for_ever(first))
        with suppress(TimeoutError):
            await asyncio.wait_for(first.wait(), PROBE_SECONDS)

    async def aclose(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        self._listening = False

    async def _listen_for_ever(self, first: asyncio.Event) -> None:
        while True:
            with suppress(psycopg.Error, OSError, TimeoutError):
                await self._listen(first)
            await asyncio.sleep(RECONNECT_SECONDS)

    async def _listen(self, first: asyncio.Event) -> None:
        connection = await asyncio.wait_for(_Connection.connect(self._url, autocommit=True), CONNECT_SECONDS)
        try:
            await connection.execute(f"LISTEN {CHANNEL}")
            horizon = await (await connection.execute(_HORIZON)).fetchone()
            assert horizon is not None
            # What is remembered from here on was read after every transaction below the horizon.
            self._pass_on(EVERYTHING)
            self._horizon, self._heard = horizon[0], set()
            self._listening = True
            first.set()
            while True:
                async for notify in connection.notifies(timeout=PROBE_SECONDS):
                    self._hear(notify.payload)
                await connection.execute("SELECT 1")
        except (psycopg.Error, OSError, TimeoutError) as error:
            if self._listening:
                log.warning("notices_lost", reason=str(error) or type(error).__name__)
            raise
        finally:
            self._listening = False
            await connection.close()

    def _hear(self, payload: str) -> None:
        kind, position, horizon, *rest = payload.split(" ")
        self._pass_on(_notice(kind, rest))
        self._heard.add(int(position))
        if int(horizon) > self._horizon:
            self._horizon = int(horizon)
            self._heard = {kept for kept in self._heard if kept >= self._horizon}

    def _pass_on(self, notice: Notice) -> None:
        for listener in self._told:
            listener(notice)


def _notice(kind: str, rest: list[str]) -> Notice:
    match kind:
        case "u":
            users = tuple(rest[1:])
            return Notice(int(rest[0]), () if users == (EVERYBODY,) else users)
        case "x":
            return Notice(int(rest[0]), (rest[1],), erased_key=int(rest[2]))
        case "e":
            return Notice(int(rest[0]))
        case "k":
            return Notice(key_id=rest[0])
        case _:
            # Of a newer version of the program, whose processes run beside this one for a while.
            return EVERYTHING

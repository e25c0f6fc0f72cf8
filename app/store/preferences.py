"""Recording preferences: many requests share one transaction, each of them whole or not at all.

First everything is read that can refuse a request: its environment, its items, what was stored before under its ids.
Then what the good ones said is written by statements over whole columns. A request that is refused leaves nothing
behind and costs the others nothing.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import msgspec
import numpy as np
import psycopg
from psycopg.errors import SerializationFailure
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.domain import (
    ConflictError,
    Context,
    DomainError,
    FeaturesOption,
    InvalidInputError,
    ItemOption,
    NotFoundError,
    Option,
    Preference,
    Recorded,
    TextOption,
    TrajectoryOption,
)
from app.store.database import Database, driver_connection, look_up, transaction
from app.store.encoding import steps_to_bytes
from app.store.environments import FIND_ENVIRONMENTS, LOCK_ENVIRONMENTS, EnvironmentRow
from app.store.interning import (
    FIND_ITEMS,
    ContentIn,
    FoundItems,
    InlineOption,
    context_hash,
    found_items,
    intern_contexts,
    intern_options,
    option_hash,
)
from app.store.notices import announce

# Everybody locks users in the same order, so that two groups never wait for each other in a ring.
_ADD_USERS = """
    INSERT INTO users (environment_id, user_id)
    SELECT environments.id, given.one ->> 1
    FROM jsonb_array_elements(%(named)s::jsonb) AS given (one)
    JOIN environments ON environments.name = given.one ->> 0
    ORDER BY environments.id, (given.one ->> 1) COLLATE "C"
    ON CONFLICT (environment_id, user_id) DO NOTHING
"""
_LOCK_USERS = """
    SELECT users.environment_id, users.user_id, users.id
    FROM jsonb_array_elements(%(named)s::jsonb) AS given (one)
    JOIN environments ON environments.name = given.one ->> 0
    JOIN users ON users.environment_id = environments.id AND users.user_id = given.one ->> 1
    ORDER BY users.environment_id, users.user_id
    FOR NO KEY UPDATE OF users
"""
_STORED_CONTENTS = """
    SELECT stored.environment_id, stored.client_id, users.user_id,
           chosen.item_id, chosen.content_hash, stored.chosen_steps,
           rejected.item_id, rejected.content_hash, stored.rejected_steps,
           contexts.content_hash, stored.label, stored.weight, NULLIF(stored.occurred_at, stored.recorded_at)
    FROM jsonb_array_elements(%(named)s::jsonb) AS given (one)
    JOIN environments ON environments.name = given.one ->> 0
    JOIN preferences AS stored
        ON stored.environment_id = environments.id AND stored.client_id = given.one ->> 1
    JOIN users ON users.id = stored.user_key
    LEFT JOIN items AS chosen ON chosen.id = stored.chosen_key
    LEFT JOIN items AS rejected ON rejected.id = stored.rejected_key
    LEFT JOIN contexts ON contexts.id = stored.context_key
"""
# As `content_of` says it.

# Numbers are drawn in the order of the group and rows written in the order of the clients' ids: the first keeps the
# order in which things were said, the second is the same for everybody who writes the same ids.
RECORD_GIVEN = """inserted AS (
        INSERT INTO preferences (
            id, environment_id, user_key, chosen_key, rejected_key, context_key, chosen_steps, rejected_steps,
            label, weight, occurred_at, client_id
        )
        SELECT id, environment_id, user_key, chosen_key, rejected_key, context_key, chosen_steps, rejected_steps,
               label, weight, COALESCE(occurred_at, now()), client_id
        FROM given
        ORDER BY client_id COLLATE "C", id
        ON CONFLICT (environment_id, client_id) DO NOTHING
        RETURNING user_key, occurred_at
    ), counted AS (
        UPDATE users SET
            feedback_count = users.feedback_count + said.n,
            first_at = LEAST(users.first_at, said.first_at),
            last_at = GREATEST(users.last_at, said.last_at)
        FROM (
            SELECT user_key, count(*) AS n, min(occurred_at) AS first_at, max(occurred_at) AS last_at
            FROM inserted GROUP BY user_key
        ) AS said
        WHERE users.id = said.user_key
    )
    SELECT count(*) FROM inserted
"""
# Of rows named `given`: what is new is written, and counted for its users.

_RECORD = f"""
    WITH given AS MATERIALIZED (
        SELECT nextval('preferences_id_seq') AS id, rows.*
        FROM json_to_recordset(%(rows)s::json) AS rows (
            environment_id bigint, user_key bigint, chosen_key bigint, rejected_key bigint, context_key bigint,
            chosen_steps bytea, rejected_steps bytea, label float8, weight float8, occurred_at timestamptz,
            client_id text
        )
    ), {RECORD_GIVEN}
"""  # noqa: S608 - our own words

# The last lock: everybody who writes to an environment waits for it, from here to the commit.
_HOLD = "SELECT id FROM environments WHERE id = ANY(%(environment_ids)s::bigint[]) ORDER BY id FOR NO KEY UPDATE"

# A statement of its own, which sees what those who were waited for have left. One that locked and counted went on from
# the row as it was before, and two that had waited for a third met in a deadlock, which PostgreSQL ends after a second.
_COUNT = """
    UPDATE environments SET preference_count = environments.preference_count + said.n
    FROM unnest(%(environment_ids)s::bigint[], %(counts)s::bigint[]) AS said (id, n)
    WHERE environments.id = said.id
"""

_TO_JSON = msgspec.json.Encoder()

Driver = psycopg.AsyncConnection[Any]

ClientIdIn = tuple[int, str]
"""An environment's key, and the id that a client gave a preference in it."""

UserIn = tuple[int, str]
"""An environment's key, and a user's id in it."""

Content = tuple[Any, ...]
"""What a preference says; two under one id must be equal."""


class Submission(NamedTuple):
    """What one request wants recorded: whole, in its order, or not at all."""

    environment: str
    batch: Sequence[Preference]


Outcome = Recorded | DomainError


async def record_preferences(db: Database, name: str, batch: Sequence[Preference]) -> Recorded:
    """Store a batch; what was stored before under the same id is counted as a duplicate.

    Raises
    ------
    NotFoundError
        There is no such environment.
    InvalidInputError
        An option cannot be compared here; `pointer` names the first.
    ConflictError
        An id was used before for another content.
    """
    (outcome,) = await record_group(db, [Submission(name, batch)])
    if isinstance(outcome, DomainError):
        raise outcome
    return outcome


@look_up
async def refresh_statistics(connection: AsyncConnection) -> None:
    """Let the planner look at the tables now.

    Of tables that were filled a moment ago it believes that they are nearly empty, and reads all users of an
    environment to find one; autovacuum would tell it after a minute.
    """
    await connection.execute(text("ANALYZE users, items, contexts, preferences"))


@transaction
async def record_group(connection: AsyncConnection, submissions: Sequence[Submission]) -> list[Outcome]:
    """Store what many requests say by one transaction; what became of each, in their order."""
    driver = await driver_connection(connection)
    found = await _look_up(driver, submissions)
    requests = [_Request(one, found.environments.get(one.environment)) for one in submissions]
    _judge(requests, _Request.check_shapes)
    _judge(requests, lambda request: request.check_items(found.items))
    # One after the other, for what a request says under an id is stored for those that come after it.
    _judge(requests, lambda request: request.check_ids(found.contents))
    writing = [request for request in _good(requests) if request.fresh]
    rows = await _rows(connection, driver, found, writing)
    async with driver.pipeline():
        inserted = await driver.execute(_RECORD, {"rows": _json(rows)}) if rows else None
        if inserted is not None:
            counts = _counts(writing)
            await driver.execute(_HOLD, {"environment_ids": counts["environment_ids"]})
            await driver.execute(_COUNT, counts)
        # Waits for all of them.
        position = await _announce(connection, list(_good(requests)))
    if inserted is not None and await inserted.fetchone() != (len(rows),):
        raise SerializationFailure("another process has just stored a preference under one of these ids")
    return [request.outcome(position) for request in requests]


@dataclass(slots=True, eq=False)
class _Request:
    """A submission on its way through the checks."""

    submission: Submission
    environment: EnvironmentRow | None
    error: DomainError | None = None
    fresh: list[int] = field(default_factory=list)
    """Which of the batch are to be written."""

    @property
    def batch(self) -> Sequence[Preference]:
        return self.submission.batch

    @property
    def row(self) -> EnvironmentRow:
        assert self.environment is not None
        return self.environment

    def check_shapes(self) -> None:
        if self.environment is None:
            raise NotFoundError(f"There is no environment {self.submission.environment!r}.")
        for index, preference in enumerate(self.batch):
            check_shape(self.environment, preference, f"/preferences/{index}")

    def check_items(self, items: FoundItems) -> None:
        for index, preference in enumerate(self.batch):
            check_option_rows(self.row, items, preference, f"/preferences/{index}")

    def check_ids(self, stored: dict[ClientIdIn, Content]) -> None:
        here = self.row.id
        said: dict[ClientIdIn, Content] = {}
        for index, preference in enumerate(self.batch):
            if preference.id is None:
                self.fresh.append(index)
                continue
            one = here, preference.id
            found = content_of(preference)
            known = stored.get(one) or said.get(one)
            if known is None:
                said[one] = found
                self.fresh.append(index)
            elif known != found:
                raise taken(preference.id, f"/preferences/{index}")
        stored.update(said)

    def outcome(self, position: int | None) -> Outcome:
        if self.error is not None:
            return self.error
        return Recorded(len(self.fresh), len(self.batch) - len(self.fresh), position)


def _judge(requests: Iterable[_Request], check: Callable[[_Request], None]) -> None:
    for request in _good(requests):
        try:
            check(request)
        except DomainError as error:
            request.error = error


def _good(requests: Iterable[_Request]) -> Iterator[_Request]:
    return (request for request in requests if request.error is None)


@dataclass(frozen=True, slots=True)
class _Found:
    """What the database has of that which a group names; its users are locked."""

    environments: dict[str, EnvironmentRow]
    items: FoundItems
    contents: dict[ClientIdIn, Content]
    users: dict[UserIn, int]


async def _look_up(driver: Driver, submissions: Sequence[Submission]) -> _Found:
    """Lock and read by one round trip."""
    items: set[tuple[str, str]] = set()
    client_ids: set[tuple[str, str]] = set()
    users: set[tuple[str, str]] = set()
    for name, batch in submissions:
        for one in batch:
            users.add((name, one.user))
            if isinstance(one.chosen, ItemOption):
                items.add((name, one.chosen.item))
            if isinstance(one.rejected, ItemOption):
                items.add((name, one.rejected.item))
            if one.id is not None:
                client_ids.add((name, one.id))
    names = {"names": sorted({name for name, _ in submissions})}
    async with driver.pipeline():
        await driver.execute(LOCK_ENVIRONMENTS, names)
        environments = await driver.execute(FIND_ENVIRONMENTS, names)
        # Before what is stored is read: whoever waits for users here then sees what was recorded of them meanwhile.
        known_users = await driver.execute(_LOCK_USERS, _named(users)) if users else None
        known_items = await driver.execute(FIND_ITEMS, _named(items)) if items else None
        stored = await driver.execute(_STORED_CONTENTS, _named(client_ids)) if client_ids else None
    return _Found(
        environments={row[1]: EnvironmentRow(*row) for row in await environments.fetchall()},
        items=found_items(await known_items.fetchall() if known_items else ()),
        contents={(row[0], row[1]): _stored_content(*row[2:]) for row in (await stored.fetchall() if stored else ())},
        users={(key, user): row for key, user, row in (await known_users.fetchall() if known_users else ())},
    )


def _named(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Environments' names and what is looked for in them, as JSON: arrays of arrays are quoted far more slowly."""
    return {"named": _json(list(pairs))}


def _json(value: Any) -> str:
    return _TO_JSON.encode(value).decode()


async def _rows(
    connection: AsyncConnection, driver: Driver, found: _Found, requests: Sequence[_Request]
) -> list[dict[str, Any]]:
    """What is to be written, once the rows that it refers to are there."""
    said = [(request, request.batch[index]) for request in requests for index in request.fresh]
    options, contexts = contents_of((request.row.id, one) for request, one in said)
    option_keys = await intern_options(connection, options)
    context_keys = await intern_contexts(connection, contexts)
    users = await _with_new_users(driver, found.users, requests)
    return [
        {
            "environment_id": request.row.id,
            "user_key": users[request.row.id, one.user],
            "chosen_key": option_key(request.row.id, one.chosen, found.items, option_keys),
            "rejected_key": option_key(request.row.id, one.rejected, found.items, option_keys),
            "context_key": None if one.context is None else context_keys[request.row.id, context_hash(one.context)],
            "chosen_steps": _hex(steps_of(one.chosen)),
            "rejected_steps": _hex(steps_of(one.rejected)),
            "label": one.label,
            "weight": one.weight,
            "occurred_at": one.occurred_at,
            "client_id": one.id,
        }
        for request, one in said
    ]


def _hex(value: bytes | None) -> str | None:
    return None if value is None else rf"\x{value.hex()}"


async def _with_new_users(driver: Driver, known: dict[UserIn, int], requests: Sequence[_Request]) -> dict[UserIn, int]:
    new = {
        (request.submission.environment, request.batch[index].user)
        for request in requests
        for index in request.fresh
        if (request.row.id, request.batch[index].user) not in known
    }
    if not new:
        return known
    async with driver.pipeline():
        await driver.execute(_ADD_USERS, _named(new))
        added = await driver.execute(_LOCK_USERS, _named(new))
    return known | {(key, user): row for key, user, row in await added.fetchall()}


def _counts(requests: Iterable[_Request]) -> dict[str, list[int]]:
    counts: dict[int, int] = {}
    for request in requests:
        counts[request.row.id] = counts.get(request.row.id, 0) + len(request.fresh)
    return {"environment_ids": list(counts), "counts": list(counts.values())}


async def _announce(connection: AsyncConnection, requests: Iterable[_Request]) -> int | None:
    """One notice of all users; duplicates too, for who sends again may not have had the first acknowledgement."""
    users: dict[int, set[str]] = {}
    for request in requests:
        if request.batch:
            users.setdefault(request.row.id, set()).update(preference.user for preference in request.batch)
    return await announce(connection, users) if users else None


def contents_of(
    said: Iterable[tuple[int, Preference]],
) -> tuple[dict[ContentIn, InlineOption], dict[ContentIn, Context]]:
    """The options given inline and the contexts of preferences, each with its environment's key."""
    options: dict[ContentIn, InlineOption] = {}
    contexts: dict[ContentIn, Context] = {}
    for here, preference in said:
        for option in (preference.chosen, preference.rejected):
            if isinstance(option, InlineOption):
                options[here, option_hash(option)] = option
        if preference.context is not None:
            contexts[here, context_hash(preference.context)] = preference.context
    return options, contexts


def taken(client_id: str | None, pointer: str) -> ConflictError:
    """The id was used before."""
    return ConflictError(
        f"Preference id {client_id!r} is taken by a preference with other content.", pointer=f"{pointer}/id"
    )


def content_of(preference: Preference) -> Content:
    """What makes two preferences under one id the same."""
    return (
        preference.user,
        _option_content(preference.chosen),
        _option_content(preference.rejected),
        None if preference.context is None else context_hash(preference.context),
        preference.label,
        preference.weight,
        preference.occurred_at,
    )


def _option_content(option: Option) -> tuple[str | None, bytes | None, bytes | None]:
    """The item's id, the hash of what was given inline, or the steps."""
    match option:
        case ItemOption():
            return option.item, None, None
        case FeaturesOption() | TextOption():
            return None, option_hash(option), None
        case TrajectoryOption():
            return None, None, steps_to_bytes(option.states, option.actions)


def _stored_content(user: str, *said: Any) -> Content:
    return user, said[0:3], said[3:6], *said[6:]


def option_key(here: int, option: Option, items: FoundItems, inline: dict[ContentIn, int]) -> int | None:
    match option:
        case ItemOption():
            return items.live[here, option.item]
        case FeaturesOption() | TextOption():
            return inline[here, option_hash(option)]
        case TrajectoryOption():
            return None


def steps_of(option: Option) -> bytes | None:
    return steps_to_bytes(option.states, option.actions) if isinstance(option, TrajectoryOption) else None


def check_shape(environment: EnvironmentRow, preference: Preference, pointer: str) -> None:
    """The edge has checked this against the definition that it knew; the definition may have changed since."""
    for side, option in (("chosen", preference.chosen), ("rejected", preference.rejected)):
        match option:
            case TrajectoryOption() if environment.kind != "mdp":
                raise InvalidInputError(
                    f"Environment {environment.name!r} compares items.", pointer=f"{pointer}/{side}"
                )
            case TrajectoryOption() if {len(option.states), len(option.actions)} != {environment.horizon}:
                raise InvalidInputError(
                    f"A trajectory here has {environment.horizon} steps.", pointer=f"{pointer}/{side}"
                )
            case TrajectoryOption():
                pass
            case _ if environment.kind == "mdp":
                raise InvalidInputError(
                    f"Environment {environment.name!r} compares trajectories.", pointer=f"{pointer}/{side}"
                )
            case FeaturesOption() | TextOption():
                _check_dim(option, environment.item_dim, f"{pointer}/{side}")
            case ItemOption():
                pass
    if preference.context is not None:
        _check_dim(preference.context, environment.context_dim, f"{pointer}/context")


def check_option_rows(environment: EnvironmentRow, items: FoundItems, preference: Preference, pointer: str) -> None:
    """Items must be there, and the two options must not be one."""
    for side, option in (("chosen", preference.chosen), ("rejected", preference.rejected)):
        if isinstance(option, ItemOption) and (environment.id, option.item) not in items.live:
            raise item_problem(environment, items, option.item, f"{pointer}/{side}/item")
    if _same(preference.chosen, preference.rejected):
        raise InvalidInputError("The chosen and the rejected option are the same.", pointer=f"{pointer}/rejected")


def item_problem(environment: EnvironmentRow, items: FoundItems, item: str, pointer: str) -> InvalidInputError:
    """Why an item that is not there cannot be compared."""
    gone = (environment.id, item) in items.retired
    why = f"Item {item!r} is retired from" if gone else f"There is no item {item!r} in"
    return InvalidInputError(f"{why} environment {environment.name!r}.", pointer=pointer)


def _same(one: Option, other: Option) -> bool:
    """They would be one row."""
    if isinstance(one, ItemOption) and isinstance(other, ItemOption):
        return one.item == other.item
    return type(one) is type(other) and _option_content(one) == _option_content(other)


def _check_dim(given: FeaturesOption | TextOption | Context, dim: int | None, pointer: str) -> None:
    if dim is None:
        raise InvalidInputError("This environment has no contexts.", pointer=pointer)
    if np.shape(given.features) != (dim,):
        raise InvalidInputError(f"Expected {dim} features; found {np.size(given.features)}.", pointer=pointer)

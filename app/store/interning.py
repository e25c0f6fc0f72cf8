"""Items, inline options and contexts of many requests, each as the key of the one row that stands for its content."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from sqlalchemy import TextClause, text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.domain import Context, FeaturesOption, TextOption
from app.store.encoding import digest, floats_to_bytes

InlineOption = FeaturesOption | TextOption

ItemIn = tuple[int, str]
"""An environment's key, and an item's id in it."""

ContentIn = tuple[int, bytes]
"""An environment's key, and the hash of a content in it."""


@dataclass(frozen=True, slots=True)
class FoundItems:
    live: dict[ItemIn, int]
    """The rows' keys."""
    retired: frozenset[ItemIn]


FIND_ITEMS = """
    SELECT items.environment_id, items.item_id, items.id, items.retired_at IS NOT NULL
    FROM jsonb_array_elements(%(named)s::jsonb) AS given (one)
    JOIN environments ON environments.name = given.one ->> 0
    JOIN items ON items.environment_id = environments.id AND items.item_id = given.one ->> 1
"""
# For the driver; `named` is JSON, [[environment's name, item's id], ...].


def found_items(rows: Iterable[tuple[int, str, int, bool]]) -> FoundItems:
    """Of the rows of `FIND_ITEMS`."""
    listed = list(rows)
    return FoundItems(
        live={(key, item): row for key, item, row, retired in listed if not retired},
        retired=frozenset((key, item) for key, item, _, retired in listed if retired),
    )


def _find(table: str) -> TextClause:
    return text(
        f"""
        SELECT found.environment_id, found.content_hash, found.id
        FROM unnest(CAST(:environment_ids AS bigint[]), CAST(:hashes AS bytea[])) AS wanted (environment_id, hash)
        JOIN {table} AS found ON found.environment_id = wanted.environment_id AND found.content_hash = wanted.hash
        """  # noqa: S608 - the table's name is a constant of this module
    )


def _add(table: str) -> TextClause:
    # In the order of the hashes, so that two batches with the same contents wait for each other and never in a ring.
    return text(
        f"""
        INSERT INTO {table} (environment_id, content_hash, features, text)
        SELECT given.*
        FROM unnest(
            CAST(:environment_ids AS bigint[]), CAST(:hashes AS bytea[]), CAST(:features AS bytea[]),
            CAST(:texts AS text[])
        ) AS given (environment_id, content_hash, features, text)
        ORDER BY given.environment_id, given.content_hash
        ON CONFLICT (environment_id, content_hash) DO NOTHING
        """  # noqa: S608 - the table's name is a constant of this module
    )


_STATEMENTS = {table: (_find(table), _add(table)) for table in ("items", "contexts")}


async def intern_options(
    connection: AsyncConnection, contents: Mapping[ContentIn, InlineOption]
) -> dict[ContentIn, int]:
    """The row of every inline option; those that are new are stored."""
    return await _intern(connection, "items", contents)


async def intern_contexts(connection: AsyncConnection, contents: Mapping[ContentIn, Context]) -> dict[ContentIn, int]:
    """The row of every context; those that are new are stored."""
    return await _intern(connection, "contexts", contents)


def option_hash(option: InlineOption) -> bytes:
    """Of a text, only the text counts: an encoder may answer a little differently the next time."""
    match option:
        case TextOption():
            return digest(b"text", option.text.encode())
        case FeaturesOption():
            return digest(b"features", floats_to_bytes(option.features))


def context_hash(context: Context) -> bytes:
    if context.text is not None:
        return digest(b"text", context.text.encode())
    return digest(b"features", floats_to_bytes(context.features))


async def _intern(
    connection: AsyncConnection, table: str, contents: Mapping[ContentIn, InlineOption | Context]
) -> dict[ContentIn, int]:
    if not contents:
        return {}
    find, add = _STATEMENTS[table]
    known = await _known(connection, find, contents)
    new = {key: content for key, content in contents.items() if key not in known}
    if new:
        texts: list[str | None] = [getattr(content, "text", None) for content in new.values()]
        features = [floats_to_bytes(content.features) for content in new.values()]
        await connection.execute(add, _keys(new) | {"features": features, "texts": texts})
        known |= await _known(connection, find, new)
    return known


async def _known(connection: AsyncConnection, find: TextClause, wanted: Iterable[ContentIn]) -> dict[ContentIn, int]:
    rows = await connection.execute(find, _keys(wanted))
    return {(key, bytes(found)): row for key, found, row in rows}


def _keys(contents: Iterable[ContentIn]) -> dict[str, list[int] | list[bytes]]:
    listed = list(contents)
    return {"environment_ids": [key for key, _ in listed], "hashes": [found for _, found in listed]}

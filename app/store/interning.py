"""Options and contexts of a batch, each as the key of the one row that stands for its content."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import TextClause, text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.domain import Context, FeaturesOption, InvalidInputError, ItemOption, Preference, TextOption
from app.store.encoding import digest, floats_to_bytes
from app.store.environments import EnvironmentRow

InlineOption = FeaturesOption | TextOption


@dataclass(frozen=True, slots=True)
class Interned:
    """The rows that a batch's items, inline options and contexts are."""

    item: dict[str, int]
    inline: dict[bytes, int]
    context: dict[bytes, int]


_ITEMS = text(
    """
    SELECT item_id, id, retired_at IS NOT NULL AS retired FROM items
    WHERE environment_id = :environment_id AND item_id = ANY(CAST(:ids AS text[]))
    """
)


def _find(table: str) -> TextClause:
    return text(
        f"""
        SELECT content_hash, id FROM {table}
        WHERE environment_id = :environment_id AND content_hash = ANY(CAST(:hashes AS bytea[]))
        """  # noqa: S608 - the table's name is a constant of this module
    )


def _add(table: str) -> TextClause:
    # In the order of the hashes, so that two batches with the same contents wait for each other and never in a ring.
    return text(
        f"""
        INSERT INTO {table} (environment_id, content_hash, features, text)
        SELECT :environment_id, given.*
        FROM unnest(CAST(:hashes AS bytea[]), CAST(:features AS bytea[]), CAST(:texts AS text[]))
            AS given (content_hash, features, text)
        ORDER BY given.content_hash
        ON CONFLICT (environment_id, content_hash) DO NOTHING
        """  # noqa: S608 - the table's name is a constant of this module
    )


_STATEMENTS = {table: (_find(table), _add(table)) for table in ("items", "contexts")}


async def intern_contents(
    connection: AsyncConnection, environment: EnvironmentRow, batch: Sequence[Preference]
) -> Interned:
    """Find every item, and store every inline option and context that is new.

    Raises
    ------
    InvalidInputError
        An item is unknown or retired, or features have the wrong length; names the first.
    """
    items = await _find_items(connection, environment, batch)
    inline = {
        option_hash(option): option
        for preference in batch
        for option in (preference.chosen, preference.rejected)
        if isinstance(option, InlineOption)
    }
    contexts = {
        context_hash(preference.context): preference.context for preference in batch if preference.context is not None
    }
    return Interned(
        item=items,
        inline=await _intern(connection, environment.id, "items", inline),
        context=await _intern(connection, environment.id, "contexts", contexts),
    )


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


async def _find_items(
    connection: AsyncConnection, environment: EnvironmentRow, batch: Sequence[Preference]
) -> dict[str, int]:
    named = [
        (f"/preferences/{index}/{side}/item", option.item)
        for index, preference in enumerate(batch)
        for side, option in (("chosen", preference.chosen), ("rejected", preference.rejected))
        if isinstance(option, ItemOption)
    ]
    if not named:
        return {}
    ids = sorted({item for _, item in named})
    rows = (await connection.execute(_ITEMS, {"environment_id": environment.id, "ids": ids})).all()
    known = {row.item_id: row.id for row in rows if not row.retired}
    retired = {row.item_id for row in rows if row.retired}
    for pointer, item in named:
        if item not in known:
            why = f"Item {item!r} is retired from" if item in retired else f"There is no item {item!r} in"
            raise InvalidInputError(f"{why} environment {environment.name!r}.", pointer=pointer)
    return known


async def _intern(
    connection: AsyncConnection,
    environment_id: int,
    table: str,
    contents: dict[bytes, InlineOption] | dict[bytes, Context],
) -> dict[bytes, int]:
    if not contents:
        return {}
    find, add = _STATEMENTS[table]
    wanted = {"environment_id": environment_id, "hashes": list(contents)}
    known = {bytes(row.content_hash): row.id for row in await connection.execute(find, wanted)}
    new = {key: content for key, content in contents.items() if key not in known}
    if new:
        texts: list[str | None] = [getattr(content, "text", None) for content in new.values()]
        features = [floats_to_bytes(content.features) for content in new.values()]
        await connection.execute(
            add, {"environment_id": environment_id, "hashes": list(new), "features": features, "texts": texts}
        )
        known = {bytes(row.content_hash): row.id for row in await connection.execute(find, wanted)}
    return known

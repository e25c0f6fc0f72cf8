"""Rows of tables: CSV, TSV and Parquet, read a few at a time; and what .gz packs."""

import csv
import gzip
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

Row = dict[str, Any]

Told = Callable[[int], None]
"""Hears how many bytes of the file have been read."""

PARQUET_ROWS = 2_000
"""Rows of a Parquet file that are in memory at once."""

DELIMITERS = {".csv": ",", ".tsv": "\t"}

csv.field_size_limit(16 * 1024 * 1024)


class UnreadableError(ValueError):
    """A file, or a row of it, that is not what it should be; the message says which and why."""


@contextmanager
def readable(file: Path) -> Iterator[None]:
    """Whatever a damaged file makes its readers raise is one error, with the file's name."""
    try:
        yield
    except UnreadableError:
        raise
    except RecursionError as error:
        raise UnreadableError(f"{file.name}: it is nested too deeply.") from error
    except (csv.Error, zlib.error, EOFError, OSError, OverflowError, ValueError) as error:
        raise UnreadableError(f"{file.name}: {error}") from error


def kind_of(file: Path) -> str:
    """The ending that says what is in it: that before .gz."""
    return Path(file.name.removesuffix(".gz")).suffix.lower()


def unpacked(file: Path, raw: BinaryIO) -> IO[bytes]:
    return cast("IO[bytes]", gzip.GzipFile(fileobj=raw)) if file.suffix == ".gz" else raw


def is_table(file: Path) -> bool:
    return kind_of(file) in {*DELIMITERS, ".parquet"}


def rows_of(file: Path, raw: BinaryIO, told: Told = lambda _: None) -> Iterator[Row]:
    """The rows of a table, by column; the cells of a text file are texts, or None where a row is too short."""
    with readable(file):
        if kind_of(file) == ".parquet":
            yield from _parquet(raw, file.stat().st_size, told)
            return
        with _reading(file, raw) as reader:
            for row in reader:
                told(raw.tell())
                # Cells beyond the last column have no name.
                yield {name: value for name, value in row.items() if name is not None}


def columns_of(file: Path) -> list[str]:
    with readable(file):
        if kind_of(file) == ".parquet":
            from pyarrow.parquet import read_schema

            return list(read_schema(file).names)
        with file.open("rb") as raw, _reading(file, raw) as reader:
            return list(reader.fieldnames or [])


@contextmanager
def _reading(file: Path, raw: BinaryIO) -> "Iterator[csv.DictReader[str]]":
    text = TextIOWrapper(unpacked(file, raw), encoding="utf-8-sig", newline="")
    try:
        yield csv.DictReader(text, delimiter=DELIMITERS[kind_of(file)])
    finally:
        # Who opened the file closes it.
        text.detach()


def _parquet(raw: BinaryIO, size: int, told: Told) -> Iterator[Row]:
    from pyarrow.parquet import ParquetFile

    table = ParquetFile(raw)
    read = 0
    for batch in table.iter_batches(batch_size=PARQUET_ROWS):
        yield from batch.to_pylist()
        read += batch.num_rows
        told(size * read // max(1, table.metadata.num_rows))

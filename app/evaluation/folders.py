"""Reading data set folders, in two forms.

Reference form: `items.npz` (`features`), `comparisons.npz` (`user`, `chosen`, `rejected`, `split`; perhaps `fold`,
`context`, `time`), `contexts.npz` (`features`) where there are contexts, `meta.json`. Readable form: `items.json`
(`id`, `features` by name) and `preferences.ndjson.gz` or `preferences.ndjson` (`user`, `chosen`, `rejected` by item
id), for which a split is derived.
"""

import gzip
import json
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.evaluation.dataset import DERIVED_SPLIT_RULE, Dataset, Int, InvalidDatasetError, Part, Real, derive_split

UNREADABLE = (ValueError, OSError, EOFError, KeyError, TypeError, AttributeError, zipfile.BadZipFile, zlib.error)
"""What NumPy is seen to raise for files that are cut short, garbled or of another kind."""


def read_dataset(folder: Path) -> Dataset:
    """Read a data set folder of either form.

    Raises
    ------
    InvalidDatasetError
        The folder or a file is missing or garbled; the message says which, and what was expected.
    """
    if not folder.is_dir():
        raise InvalidDatasetError(f"{folder} is not a folder.")
    if (folder / "comparisons.npz").exists() or (folder / "items.npz").exists():
        dataset = _read_reference(folder)
    elif (folder / "items.json").exists():
        dataset = _read_readable(folder)
    else:
        raise InvalidDatasetError(
            f"{folder} holds no data set: items.npz and comparisons.npz, or items.json, were expected."
        )
    _check(dataset)
    return dataset


def _read_reference(folder: Path) -> Dataset:
    file = folder / "comparisons.npz"
    columns = _arrays(file, ("user", "chosen", "rejected", "split"), ("fold", "context", "time"))
    lengths = {name: len(_one_axis(file, name, column)) for name, column in columns.items()}
    if len(set(lengths.values())) != 1:
        raise InvalidDatasetError(f"{file}: the columns differ in length: {lengths}.")
    context = _integers(file, columns, "context") if "context" in columns else None
    contexts = None if context is None else _features(folder / "contexts.npz")
    required = {name: _integers(file, columns, name) for name in ("user", "chosen", "rejected", "split")}
    return Dataset(
        name=_name(folder),
        X=_features(folder / "items.npz"),
        contexts=contexts,
        user=required["user"],
        chosen=required["chosen"],
        rejected=required["rejected"],
        context=context,
        split=required["split"],
        split_rule="the folder's own",
        fold=_integers(file, columns, "fold") if "fold" in columns else None,
        time=_reals(file, "time", columns["time"]) if "time" in columns else None,
    )


def _arrays(file: Path, required: tuple[str, ...], optional: tuple[str, ...] = ()) -> dict[str, NDArray[Any]]:
    if not file.exists():
        raise InvalidDatasetError(f"{file} is missing.")
    names = (*required, *optional)
    try:
        # NumPy leaves a file that it opened itself open when it cannot read it.
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
            found = sorted(stored)
            arrays = {name: stored[name] for name in names if name in stored}
    except UNREADABLE as error:
        raise InvalidDatasetError(f"{file} cannot be read as NumPy arrays ({error}).") from error
    missing = [name for name in required if name not in arrays]
    if missing:
        raise InvalidDatasetError(f"{file}: the array {missing[0]!r} is missing; found {found}.")
    return arrays


def _one_axis(file: Path, name: str, column: NDArray[Any]) -> NDArray[Any]:
    if column.ndim != 1:
        raise InvalidDatasetError(f"{file}: {name} must have one entry a comparison; found shape {column.shape}.")
    return column


def _integers(file: Path, columns: dict[str, NDArray[Any]], name: str) -> Int:
    if columns[name].dtype.kind not in "iu":
        raise InvalidDatasetError(f"{file}: {name} must be whole numbers; found {columns[name].dtype}.")
    return columns[name].astype(np.int64)


def _reals(file: Path, name: str, values: NDArray[Any]) -> Real:
    if values.dtype.kind not in "iuf":
        raise InvalidDatasetError(f"{file}: {name} must be numbers; found {values.dtype}.")
    numbers: Real = values.astype(np.float64)
    bad = np.argwhere(~np.isfinite(numbers))
    if len(bad):
        raise InvalidDatasetError(
            f"{file}: {name}{bad[0].tolist()} is {numbers[tuple(bad[0])]}; a finite number was expected."
        )
    return numbers


def _features(file: Path) -> Real:
    table = _reals(file, "features", _arrays(file, ("features",))["features"])
    if table.ndim != 2 or 0 in table.shape:
        raise InvalidDatasetError(f"{file}: features must be a table with a row an item; found shape {table.shape}.")
    return table


def _name(folder: Path) -> str:
    meta = _json(folder / "meta.json") if (folder / "meta.json").exists() else {}
    name = meta.get("name") if isinstance(meta, dict) else None
    return name if isinstance(name, str) else folder.resolve().name


def _json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidDatasetError(f"{file} cannot be read as JSON ({error}).") from error


def _read_readable(folder: Path) -> Dataset:
    ids, X = _readable_items(folder / "items.json")
    rows = {item: row for row, item in enumerate(ids)}
    users: dict[str, int] = {}
    table: list[tuple[int, int, int]] = []
    for line, entry in _preferences(folder):
        sides = [_item_id(entry.get(name)) for name in ("chosen", "rejected")]
        for side in sides:
            if not isinstance(side, str) or side not in rows:
                raise InvalidDatasetError(f"{line}: the item {side!r} is not in items.json.")
        user = entry.get("user")
        if not isinstance(user, str):
            raise InvalidDatasetError(f"{line}: user must be a string; found {user!r}.")
        unread = sorted({"label", "weight", "context"} & entry.keys())
        if unread:
            raise InvalidDatasetError(
                f"{line}: {unread[0]!r} is not read from this form of data set; use comparisons.npz."
            )
        table.append((users.setdefault(user, len(users)), rows[str(sides[0])], rows[str(sides[1])]))
    user, chosen, rejected = np.asarray(table, dtype=np.int64).reshape(-1, 3).T
    return Dataset(
        name=_name(folder),
        X=X,
        contexts=None,
        user=user,
        chosen=chosen,
        rejected=rejected,
        context=None,
        split=derive_split(user, chosen),
        split_rule=DERIVED_SPLIT_RULE,
    )


def _item_id(option: Any) -> Any:
    """An item's id, written as such or as the API takes it."""
    return option["item"] if isinstance(option, dict) and option.keys() == {"item"} else option


def _readable_items(file: Path) -> tuple[list[str], Real]:
    items = _json(file)
    try:
        ids = [str(item["id"]) for item in items]
        names = list(items[0]["features"])
        table = np.asarray([[float(item["features"][name]) for name in names] for item in items])
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise InvalidDatasetError(
            f"{file}: a list of items with `id` and `features` by name was expected ({type(error).__name__}: {error})."
        ) from error
    if len(set(ids)) != len(ids):
        raise InvalidDatasetError(f"{file}: two items have the same id.")
    return ids, _reals(file, "features", table)


def _preferences(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each line's place (file and number, for messages) and content."""
    packed = folder / "preferences.ndjson.gz"
    file = packed if packed.exists() else folder / "preferences.ndjson"
    if not file.exists():
        raise InvalidDatasetError(f"{packed} is missing.")
    try:
        with gzip.open(file, "rt", encoding="utf-8") if file is packed else file.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield f"{file}, line {number}", _object(f"{file}, line {number}", line)
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise InvalidDatasetError(f"{file} cannot be read ({error}).") from error


def _object(place: str, line: str) -> dict[str, Any]:
    try:
        entry = json.loads(line)
    except ValueError as error:
        raise InvalidDatasetError(f"{place}: not JSON ({error}).") from error
    if not isinstance(entry, dict):
        raise InvalidDatasetError(f"{place}: an object was expected; found {type(entry).__name__}.")
    return entry


def _check(dataset: Dataset) -> None:
    _check_range(dataset, "user", dataset.user, None)
    _check_range(dataset, "chosen", dataset.chosen, len(dataset.X))
    _check_range(dataset, "rejected", dataset.rejected, len(dataset.X))
    if dataset.context is not None and dataset.contexts is not None:
        _check_range(dataset, "context", dataset.context, len(dataset.contexts))
    same = dataset.chosen == dataset.rejected
    if same.any():
        raise InvalidDatasetError(f"{dataset.name}: comparison {int(np.argmax(same))} has the same item on both sides.")
    strange = ~np.isin(dataset.split, [int(part) for part in Part])
    if strange.any():
        j = int(np.argmax(strange))
        raise InvalidDatasetError(f"{dataset.name}: comparison {j} has split {dataset.split[j]}; -1 to 3 was expected.")
    for part, what in ((Part.LEARN, "to learn from (split 0)"), (Part.TEST, "to test on (split 1)")):
        if not (dataset.split == part).any():
            raise InvalidDatasetError(f"{dataset.name}: there is no comparison {what}.")
    both = np.intersect1d(
        dataset.user[np.isin(dataset.split, [Part.LEARN, Part.TEST])],
        dataset.user[np.isin(dataset.split, [Part.ADAPT, Part.UNSEEN_TEST])],
    )
    if len(both):
        raise InvalidDatasetError(f"{dataset.name}: user {both[0]} is both seen (split 0, 1) and unseen (split 2, 3).")


def _check_range(dataset: Dataset, name: str, column: Int, size: int | None) -> None:
    bad = (column < 0) | (column >= (np.iinfo(np.int32).max if size is None else size))
    if bad.any():
        j = int(np.argmax(bad))
        limit = "0 or more" if size is None else f"0 to {size - 1}"
        raise InvalidDatasetError(f"{dataset.name}: comparison {j} has {name} {column[j]}; {limit} was expected.")

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.evaluation import InvalidDatasetError, Part, read_dataset
from tests.support.datasets import write_readable_folder, write_reference_folder


def test_a_reference_folder_is_read_as_it_was_written(tmp_path: Path) -> None:
    dataset = read_dataset(write_reference_folder(tmp_path, n_contexts=5, fold=True))
    with np.load(tmp_path / "comparisons.npz") as stored, np.load(tmp_path / "items.npz") as items:
        for name in ("user", "chosen", "rejected", "split", "context", "fold"):
            np.testing.assert_array_equal(getattr(dataset, name), stored[name])
        np.testing.assert_array_equal(dataset.X, items["features"])
    assert dataset.contexts is not None
    assert dataset.contexts.shape == (5, 2)
    assert dataset.name == "drawn"
    assert dataset.split_rule == "the folder's own"


def test_a_folder_without_meta_is_called_by_its_own_name(tmp_path: Path) -> None:
    write_reference_folder(tmp_path)
    (tmp_path / "meta.json").unlink()
    assert read_dataset(tmp_path).name == tmp_path.name


def test_a_readable_folder_is_read_with_a_derived_split(tmp_path: Path) -> None:
    dataset = read_dataset(write_readable_folder(tmp_path))
    assert len(dataset) == 20 * 8 * 2
    assert dataset.X.shape == (12, 2)
    np.testing.assert_array_equal(dataset.X[:, 0], np.arange(12.0))
    assert set(dataset.split.tolist()) == {Part.LEARN, Part.TEST, Part.ADAPT, Part.UNSEEN_TEST}
    assert dataset.split_rule.startswith("derived: a fifth of the users unseen")


def test_unpacked_preferences_are_read_too(tmp_path: Path) -> None:
    packed = write_readable_folder(tmp_path) / "preferences.ndjson.gz"
    (tmp_path / "preferences.ndjson").write_bytes(gzip.decompress(packed.read_bytes()))
    expected = read_dataset(tmp_path).chosen
    packed.unlink()
    np.testing.assert_array_equal(read_dataset(tmp_path).chosen, expected)


@pytest.mark.parametrize(
    ("replaced", "message"),
    [
        ({"split": None}, "'split' is missing"),
        ({"user": np.zeros(3, dtype=np.int32)}, "differ in length"),
        ({"user": np.zeros((2, 2), dtype=np.int32)}, "one entry a comparison"),
        ({"chosen": np.full(576, 40)}, "comparison 0 has chosen 40; 0 to 39 was expected"),
        ({"rejected": np.full(576, -1)}, "comparison 0 has rejected -1"),
        ({"chosen": np.zeros(576, dtype=int), "rejected": np.zeros(576, dtype=int)}, "same item on both sides"),
        ({"split": np.full(576, 7)}, "comparison 0 has split 7"),
        ({"split": np.zeros(576, dtype=int)}, "no comparison to test on"),
        ({"split": np.ones(576, dtype=int)}, "no comparison to learn from"),
        ({"split": np.tile([0, 1, 2, 3], 144)}, "user 0 is both seen"),
        ({"user": np.full(576, 0.5)}, "user must be whole numbers"),
        ({"time": np.full(576, np.nan)}, "a finite number was expected"),
        ({"context": np.zeros(576, dtype=int)}, r"contexts\.npz is missing"),
        ({"chosen": np.array([object()] * 576)}, "cannot be read as NumPy arrays"),
    ],
)
def test_a_garbled_comparison_is_named(tmp_path: Path, replaced: dict[str, Any], message: str) -> None:
    write_reference_folder(tmp_path, **replaced)
    with pytest.raises(InvalidDatasetError, match=message):
        read_dataset(tmp_path)


def test_a_context_outside_its_table_is_named(tmp_path: Path) -> None:
    write_reference_folder(tmp_path, n_contexts=5, context=np.full(576, 5))
    with pytest.raises(InvalidDatasetError, match="comparison 0 has context 5; 0 to 4"):
        read_dataset(tmp_path)


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x03\x04 cut short"])
@pytest.mark.parametrize("name", ["items.npz", "comparisons.npz"])
def test_a_broken_file_is_named(tmp_path: Path, name: str, content: bytes) -> None:
    (write_reference_folder(tmp_path) / name).write_bytes(content)
    with pytest.raises(InvalidDatasetError, match=f"{name} cannot be read"):
        read_dataset(tmp_path)


def test_a_truncated_file_is_named(tmp_path: Path) -> None:
    file = write_reference_folder(tmp_path) / "comparisons.npz"
    file.write_bytes(file.read_bytes()[:-200])
    with pytest.raises(InvalidDatasetError, match=r"comparisons\.npz cannot be read"):
        read_dataset(tmp_path)


def test_features_that_are_not_a_finite_table_are_refused(tmp_path: Path) -> None:
    write_reference_folder(tmp_path)
    np.savez(tmp_path / "items.npz", features=np.zeros(4))
    with pytest.raises(InvalidDatasetError, match="a row an item"):
        read_dataset(tmp_path)
    np.savez(tmp_path / "items.npz", features=np.full((40, 2), np.inf))
    with pytest.raises(InvalidDatasetError, match=r"features\[0, 0\] is inf"):
        read_dataset(tmp_path)


def test_no_folder_and_an_empty_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidDatasetError, match="is not a folder"):
        read_dataset(tmp_path / "nowhere")
    with pytest.raises(InvalidDatasetError, match="holds no data set"):
        read_dataset(tmp_path)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"user": "u", "chosen": "plan-1", "rejected": "plan-99"}', "line 321: the item 'plan-99'"),
        ('{"user": 3, "chosen": "plan-1", "rejected": "plan-2"}', "line 321: user must be a string; found 3"),
        ('{"user": "u", "chosen": "plan-1", "rejected": "plan-2", "label": 0.2}', "line 321: 'label' is not read"),
        ("[1]", "line 321: an object was expected; found list"),
        ("{", "line 321: not JSON"),
    ],
)
def test_a_bad_line_is_named_by_its_number(tmp_path: Path, line: str, message: str) -> None:
    file = write_readable_folder(tmp_path) / "preferences.ndjson.gz"
    file.write_bytes(gzip.compress(gzip.decompress(file.read_bytes()) + line.encode()))
    with pytest.raises(InvalidDatasetError, match=message):
        read_dataset(tmp_path)


def test_garbled_items_and_preferences_are_named(tmp_path: Path) -> None:
    write_readable_folder(tmp_path)
    (tmp_path / "preferences.ndjson.gz").write_bytes(b"no gzip")
    with pytest.raises(InvalidDatasetError, match=r"preferences\.ndjson\.gz cannot be read"):
        read_dataset(tmp_path)
    (tmp_path / "preferences.ndjson.gz").unlink()
    with pytest.raises(InvalidDatasetError, match=r"preferences\.ndjson\.gz is missing"):
        read_dataset(tmp_path)
    for items, message in (("[", "as JSON"), ("[]", "a list of items"), ('[{"id": "a"}]', "a list of items")):
        (tmp_path / "items.json").write_text(items)
        with pytest.raises(InvalidDatasetError, match=message):
            read_dataset(tmp_path)


def test_two_items_with_one_id_are_refused(tmp_path: Path) -> None:
    write_readable_folder(tmp_path)
    item = {"id": "a", "features": {"x": 1.0}}
    (tmp_path / "items.json").write_text(json.dumps([item, item]))
    with pytest.raises(InvalidDatasetError, match="same id"):
        read_dataset(tmp_path)

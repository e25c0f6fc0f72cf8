"""Every dataclass of the core, the planner and the store keeps the house rule for values."""

import dataclasses
import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from functools import cached_property
from typing import Any, get_args, get_origin, get_type_hints

import numpy as np

import app.learning
import app.policy
import app.store

CHANGE = {"_Master", "_Path", "_Request", "_Waiting", "Search"}
"""What is written while something is computed or waits."""


def _dataclasses() -> Iterator[type[Any]]:
    for package in (app.learning, app.policy, app.store):
        for found in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            for one in vars(importlib.import_module(found.name)).values():
                if inspect.isclass(one) and one.__module__ == found.name and dataclasses.is_dataclass(one):
                    yield one


def _parts(hint: object) -> Iterator[object]:
    yield get_origin(hint) or hint
    for argument in get_args(hint):
        yield from _parts(argument)


def _holds_arrays(kind: type[Any]) -> bool:
    """Itself, or what it holds does."""
    hints = get_type_hints(kind)
    parts = [part for field in dataclasses.fields(kind) for part in _parts(hints[field.name])]
    classes = [part for part in parts if inspect.isclass(part)]
    return any(
        issubclass(one, np.ndarray) or (dataclasses.is_dataclass(one) and not one.__dataclass_params__.eq)  # type: ignore[attr-defined]
        for one in classes
    )


def test_values_do_not_change_and_take_no_other_attributes() -> None:
    for one in _dataclasses():
        remembers = any(isinstance(attribute, cached_property) for attribute in vars(one).values())
        assert one.__dataclass_params__.frozen is (one.__name__ not in CHANGE), one
        assert ("__slots__" in vars(one)) is not remembers, one


def test_what_holds_arrays_or_changes_is_compared_by_identity() -> None:
    for one in _dataclasses():
        changes = one.__name__ in CHANGE
        assert one.__dataclass_params__.eq is not (changes or _holds_arrays(one)), one

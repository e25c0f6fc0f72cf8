"""Nobody who asks waits for a compiler, and neither does a refit."""

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
from numba.core.dispatcher import Dispatcher

from app.learning import Comparisons, Model, fit, fold_in_users, influences, kernels, prepare
from tests.support.commands import ROOT
from tests.support.learning_worlds import catalogue, in_contexts, tabular


def test_everything_that_refits_and_fold_ins_use_was_compiled_before() -> None:
    """In a process of its own: here, other tests may have had it compiled."""
    script = "from tests.learning import test_preparation as here; here.tell_what_was_missing()"
    told = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert json.loads(told.stdout) == []


def tell_what_was_missing() -> None:
    prepare()
    compiled = signatures()
    for comparisons in worlds():
        for rank in (0, 1):
            model = fit(comparisons, rank=rank)
            # What is read back from the store is read-only, which to the compiler is another type.
            stored = Model.from_arrays(read_only(model.to_arrays()))
            fit(comparisons, rank=rank, warm_start=stored)
            model.predict(comparisons)
            fold_in_users(stored, comparisons.of_users([0, 1]))
            influences(stored, comparisons.of_users([0]))
    sys.stdout.write(json.dumps(sorted(signatures() - compiled)))


def worlds() -> Iterator[Comparisons]:
    """By user and in no order, which are other arrays."""
    rng = np.random.default_rng(0)
    few: dict[str, Any] = {"n_users": 12, "per_user": 10}
    for by_user in (
        catalogue(rng, **few).comparisons,
        catalogue(rng, d1=40, n_items=20, **few).comparisons,
        in_contexts(rng, **few),
        tabular(rng, **few).comparisons,
    ):
        yield by_user
        yield by_user.subset(rng.permutation(len(by_user)))


def signatures() -> set[str]:
    compiled = {name: loop for name, loop in vars(kernels).items() if isinstance(loop, Dispatcher)}
    return {f"{name} {signature}" for name, loop in compiled.items() for signature in loop.signatures}


def read_only(arrays: dict[str, Any]) -> dict[str, Any]:
    for array in arrays.values():
        array.flags.writeable = False
    return arrays

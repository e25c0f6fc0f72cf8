"""One refit: load, evaluate, fit, publish. The numeric work is in a thread, so that heartbeats and progress go on."""

import asyncio
import hashlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import numpy as np
import structlog
from numpy.typing import NDArray

from app.domain import (
    CorruptModelError,
    Environment,
    ErasedMeanwhileError,
    InvalidInputError,
    ModelVersion,
    RefitPhase,
)
from app.domain.arrays import ItemTable, PreferenceTable, comparisons
from app.learning import Model, fit
from app.serving import reference_of, reference_to_arrays
from app.store import (
    Database,
    NewModel,
    StoredAdapter,
    all_items,
    erasure_count,
    get_environment,
    load_model,
    load_preferences,
    publish_model,
    served_model,
)
from app.worker.evaluation import Decision, Evaluation, decide, evaluate, twin_from_arrays, twin_to_arrays
from app.worker.progress import ErasedError, Progress, write_progress

LOADED, EVALUATED, FITTED = 0.05, 0.45, 0.95
"""Shares of the whole that are behind at the end of a phase."""

MAX_FITS = 100
"""How often an attempt is begun because somebody was erased during the one before."""

PAUSE_SECONDS = 1.0
"""Before it begins again, so that users who are erased together do not have everything loaded for each of them."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Current:
    """What is published now."""

    version: int | None
    model: Model | None
    """None where nothing is published, where it cannot be read back, or where it rests on somebody who was erased:
    nothing is taken over from such a model."""
    twin: Model | None
    diagnostics: Mapping[str, Any] = field(default_factory=dict)
    owes: bool = False
    """Whether it rests on a user who was erased."""


@dataclass(frozen=True, slots=True, eq=False)
class Loaded:
    environment: Environment
    table: PreferenceTable
    items: ItemTable
    current: Current
    erasures: int
    """Before the preferences were loaded."""


async def refit(db: Database, name: str, refit_id: UUID, attempt: int, progress: Progress) -> ModelVersion:
    """Fit an environment's model anew and publish it, or keep it as a candidate.

    Who is erased meanwhile is in no model: the fit begins again without them.

    Raises
    ------
    InvalidInputError
        There is no preference to learn from, or the environment's rank does not fit its features.
    StoppedError
        It was cancelled, overtaken, or the worker shuts down.
    """
    for _ in range(MAX_FITS):
        with suppress(ErasedMeanwhileError, ErasedError):
            return await _refit(db, name, refit_id, attempt, progress)
        log.info("refit_begins_again", environment=name, attempt=attempt, reason="a user was erased meanwhile")
        await asyncio.sleep(PAUSE_SECONDS)
        progress.begin_again()
    raise RuntimeError(f"Users were erased during each of {MAX_FITS} fits.")


async def _refit(db: Database, name: str, refit_id: UUID, attempt: int, progress: Progress) -> ModelVersion:
    progress.reach(RefitPhase.LOADING, 0.0)
    loaded = await _load(db, name)
    progress.erasures = loaded.erasures
    progress.reach(RefitPhase.EVALUATING, LOADED)
    seed = _seed(name)
    evaluation = await asyncio.to_thread(_evaluate, loaded, seed, progress)
    await write_progress(db, refit_id, attempt, progress, evaluation.metrics)
    progress.reach(RefitPhase.FITTING, EVALUATED)
    new = await asyncio.to_thread(_fit, loaded, evaluation, seed, progress)
    progress.reach(RefitPhase.PUBLISHING, FITTED)
    decision = decide(evaluation, has_current=loaded.current.version is not None)
    if loaded.current.owes:
        # The right of whoever was erased comes before a worse log-loss, which the next refits can mend.
        decision = Decision(
            publish=True,
            reason=f"The current model rests on a user who was erased. {decision.reason}",
        )
    return await publish_model(db, name, refit_id, attempt, new, publish=decision.publish, reason=decision.reason)


async def _load(db: Database, name: str) -> Loaded:
    environment = await get_environment(db, name)
    erasures = await erasure_count(db, name)
    table = await load_preferences(db, name)
    if not len(table):
        raise InvalidInputError(f"Environment {name!r} has no preferences yet: there is nothing to learn from.")
    items = (
        await all_items(db, name)
        if environment.kind == "catalog"
        else ItemTable((), np.zeros((0, 0), dtype=np.float32))
    )
    return Loaded(environment, table, items, await _load_current(db, name, erasures), erasures)


async def _load_current(db: Database, name: str, erasures: int) -> Current:
    """A model that cannot be read back is no reason to go on serving it."""
    served = await served_model(db, name)
    if served is None:
        return Current(None, None, None)
    version, told, owes = served.version, served.diagnostics, served.erasures < erasures
    try:
        arrays = (await load_model(db, name, version)).arrays
        twin = twin_from_arrays(arrays)
        if owes:
            return Current(version, None, twin, told, owes=True)
        return Current(version, Model.from_arrays(arrays), twin, told)
    except (CorruptModelError, KeyError, ValueError):
        return Current(version, None, None, owes=owes)


def _evaluate(loaded: Loaded, seed: int, progress: Progress) -> Evaluation:
    report = progress.within(RefitPhase.EVALUATING, LOADED, EVALUATED)
    return evaluate(
        loaded.environment,
        loaded.table,
        loaded.current.twin,
        from_scratch=loaded.current.owes,
        rng=np.random.default_rng([seed, 0]),
        report=report,
    )


def _fit(loaded: Loaded, evaluation: Evaluation, seed: int, progress: Progress) -> NewModel:
    environment, table = loaded.environment, loaded.table
    model = fit(
        comparisons(table, environment),
        rank=environment.rank,
        rng=np.random.default_rng([seed, 1]),
        warm_start=loaded.current.model,
        progress=progress.within(RefitPhase.FITTING, EVALUATED, FITTED),
    )
    reference = reference_of(environment, loaded.items, table, model)
    return NewModel(
        rank=model.rank,
        estimator=model.estimator,
        n_preferences=len(table),
        arrays={**model.to_arrays(), **reference_to_arrays(reference), **twin_to_arrays(evaluation.twin)},
        adapters=_adapters(model, table),
        diagnostics=_diagnostics(model, loaded.current),
        metrics=evaluation.metrics,
        erasures=loaded.erasures,
    )


def _adapters(model: Model, table: PreferenceTable) -> dict[str, StoredAdapter]:
    counts: NDArray[np.int64] = table.feedback_count
    return {
        user: StoredAdapter(model.adapter(index).to_arrays(), int(counts[index]))
        for index, user in enumerate(table.user_ids)
    }


def _diagnostics(model: Model, current: Current) -> dict[str, Any]:
    """With who gained when rank and dependence were chosen, if that was for the current model."""
    named = {} if model.diagnostics is None else model.diagnostics.as_dict()
    if current.model is not None and model.chosen == current.model.chosen and named.get("personal_gain") is None:
        named["personal_gain"] = current.diagnostics.get("personal_gain")
    return {**named, "converged": model.converged, "passes": model.passes, "ending": model.reason}


def _seed(name: str) -> int:
    """The same for all of an environment's refits: two of them differ by what people said, not by how dice fell."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big")

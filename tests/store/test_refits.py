"""A refit's life, and that only its newest attempt can change anything."""

import asyncio
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from sqlalchemy import text

from app.domain import NotFoundError, RefitPhase, RefitPolicy, RefitState, RefitStateError
from app.store import (
    REFIT_TASK,
    Database,
    begin_refit,
    cancel_refit,
    delete_environment,
    due_environments,
    erase_user,
    finish_refit,
    get_refit,
    list_refits,
    put_environment,
    record_preferences,
    report_progress,
    request_refit,
)
from tests.support.builders import mdp, walks

pytestmark = pytest.mark.anyio


@pytest.fixture
async def place(db: Database, environment_name: str) -> str:
    await put_environment(db, mdp(environment_name, refit=RefitPolicy(every_seconds=60, min_new_preferences=3)))
    return environment_name


async def jobs_of(db: Database, refit_id: object) -> int:
    query = "SELECT count(*) FROM procrastinate_jobs WHERE task_name = :task AND args->>'refit_id' = :id"
    async with db.begin() as connection:
        count = await connection.scalar(text(query), {"task": REFIT_TASK, "id": str(refit_id)})
    assert isinstance(count, int)
    return count


async def test_a_request_is_queued_with_its_job(db: Database, place: str) -> None:
    refit, joined = await request_refit(db, place, "request")
    assert not joined
    assert (refit.state, refit.phase, refit.progress, refit.attempt) == (RefitState.QUEUED, RefitPhase.WAITING, 0, 0)
    assert (refit.environment, refit.reason, refit.cancel_requested) == (place, "request", False)
    assert await jobs_of(db, refit.id) == 1
    assert await get_refit(db, refit.id) == refit


async def test_requests_at_once_join_one_refit(db: Database, place: str) -> None:
    answers = await asyncio.gather(*(request_refit(db, place) for _ in range(12)))
    assert len({refit.id for refit, _ in answers}) == 1
    assert sum(joined for _, joined in answers) == 11
    assert await jobs_of(db, answers[0][0].id) == 1


async def test_a_request_while_one_runs_queues_another(db: Database, place: str) -> None:
    first, _ = await request_refit(db, place)
    await begin_refit(db, first.id)
    second, joined = await request_refit(db, place)
    assert not joined
    assert second.id != first.id
    assert [refit.id for refit in await list_refits(db, place)] == [second.id, first.id]


async def test_a_run_is_followed_from_begin_to_end(db: Database, place: str) -> None:
    refit, _ = await request_refit(db, place)
    attempt = await begin_refit(db, refit.id)
    assert attempt == 1
    told = await report_progress(db, refit.id, attempt, RefitPhase.FITTING, 0.25, {"passes": 3})
    assert (told.cancel_requested, told.erasures) == (False, 0)
    await record_preferences(db, place, [walks("anna", "011", "000")])
    await erase_user(db, place, "anna")
    told = await report_progress(db, refit.id, attempt, RefitPhase.FITTING, 7.0, {"loss": float("nan")})
    assert (told.cancel_requested, told.erasures) == (False, 1)
    running = await get_refit(db, refit.id)
    assert (running.phase, running.progress) == (RefitPhase.FITTING, 1.0)
    assert running.metrics == {"passes": 3, "loss": None}
    done = await finish_refit(db, refit.id, attempt, RefitState.SUCCEEDED)
    assert (done.state, done.phase, done.progress) == (RefitState.SUCCEEDED, RefitPhase.DONE, 1.0)
    assert done.started_at is not None
    assert done.finished_at is not None
    assert done.created_at <= done.started_at <= done.finished_at


async def test_a_failure_keeps_its_reason(db: Database, place: str) -> None:
    refit, _ = await request_refit(db, place)
    attempt = await begin_refit(db, refit.id)
    failed = await finish_refit(db, refit.id, attempt, RefitState.FAILED, error="No preferences yet.")
    assert (failed.state, failed.error) == (RefitState.FAILED, "No preferences yet.")


async def test_an_overtaken_attempt_can_do_nothing(db: Database, place: str) -> None:
    refit, _ = await request_refit(db, place)
    old, new = await begin_refit(db, refit.id), await begin_refit(db, refit.id)
    with pytest.raises(RefitStateError, match="attempt 2: this step came too late"):
        await report_progress(db, refit.id, old, RefitPhase.FITTING, 0.5)
    with pytest.raises(RefitStateError):
        await finish_refit(db, refit.id, old, RefitState.FAILED, error="lost")
    assert (await finish_refit(db, refit.id, new, RefitState.SUCCEEDED)).error is None


async def test_a_refit_that_has_ended_cannot_begin_again(db: Database, place: str) -> None:
    refit, _ = await request_refit(db, place)
    await finish_refit(db, refit.id, await begin_refit(db, refit.id), RefitState.SUCCEEDED)
    with pytest.raises(RefitStateError, match="is succeeded"):
        await begin_refit(db, refit.id)
    with pytest.raises(RefitStateError, match="nothing to cancel"):
        await cancel_refit(db, refit.id)


async def test_cancelling_what_waits_ends_it(db: Database, place: str) -> None:
    refit, _ = await request_refit(db, place)
    assert (await cancel_refit(db, refit.id)).state is RefitState.CANCELLED
    assert (await cancel_refit(db, refit.id)).state is RefitState.CANCELLED
    with pytest.raises(RefitStateError, match="is cancelled"):
        await begin_refit(db, refit.id)
    _, joined = await request_refit(db, place)
    assert not joined


async def test_cancelling_what_runs_asks_it_to_stop(db: Database, place: str) -> None:
    refit, _ = await request_refit(db, place)
    attempt = await begin_refit(db, refit.id)
    assert (await cancel_refit(db, refit.id)).state is RefitState.RUNNING
    assert (await report_progress(db, refit.id, attempt, RefitPhase.FITTING, 0.5)).cancel_requested
    assert (await finish_refit(db, refit.id, attempt, RefitState.CANCELLED)).state is RefitState.CANCELLED


async def test_an_unknown_refit_is_not_found(db: Database) -> None:
    nobody = uuid4()
    for deed in (get_refit, begin_refit, cancel_refit):
        with pytest.raises(NotFoundError, match=str(nobody)):
            await deed(db, nobody)
    with pytest.raises(NotFoundError):
        await report_progress(db, nobody, 1, RefitPhase.FITTING, 0.5)


async def test_a_refit_goes_with_its_environment(db: Database, place: str) -> None:
    refit, _ = await request_refit(db, place)
    await delete_environment(db, place)
    with pytest.raises(NotFoundError):
        await get_refit(db, refit.id)


async def test_a_refit_is_due_after_time_and_news(db: Database, place: str) -> None:
    now = datetime.now(UTC)
    await record_preferences(db, place, [walks("anna", "000", "111"), walks("ben", "000", "111")])
    assert place not in await due_environments(db, now)
    await record_preferences(db, place, [walks("carl", "000", "111")])
    assert place in await due_environments(db, now)

    refit, _ = await request_refit(db, place)
    assert place not in await due_environments(db, now)
    attempt = await begin_refit(db, refit.id)
    assert place not in await due_environments(db, now + timedelta(hours=1))
    await finish_refit(db, refit.id, attempt, RefitState.FAILED, error="once")
    # A failure is tried again, but not before its time.
    assert place not in await due_environments(db, now + timedelta(seconds=30))
    assert place in await due_environments(db, now + timedelta(seconds=90))


async def test_a_clock_that_was_put_back_holds_up_no_refit(db: Database, place: str) -> None:
    await record_preferences(db, place, [walks("anna", "000", "111")] * 3)
    refit, _ = await request_refit(db, place)
    await finish_refit(db, refit.id, await begin_refit(db, refit.id), RefitState.FAILED, error="once")
    assert place not in await due_environments(db)
    assert place in await due_environments(db, datetime.now(UTC) - timedelta(days=1))


async def test_erasing_leaves_no_debt_of_news(db: Database, place: str) -> None:
    """After an erasure the next refit is as many new preferences away as ever."""
    await record_preferences(db, place, [walks("anna", "000", "111")] * 6)
    async with db.begin() as connection:
        await connection.execute(
            text("UPDATE environments SET refit_preference_count = 6 WHERE name = :name"), {"name": place}
        )
    await erase_user(db, place, "anna")
    await record_preferences(db, place, [walks("ben", "000", "111")] * 3)
    assert place in await due_environments(db, datetime.now(UTC))

"""Answers for users: the published model in memory, and every user's newest feedback.

A request first looks up which version is published and how much feedback the user has given (`app.store.Current`: from
memory, unless something changed); all that is kept here is keyed by these, so an answer never mixes two of them.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from app.domain import (
    CatalogEnvironment,
    Context,
    CorruptModelError,
    InvalidInputError,
    MdpEnvironment,
    ModelNotReadyError,
    NotFoundError,
    Option,
    RefitStateError,
    StoreUnavailableError,
)
from app.domain.arrays import ItemTable, PreferenceTable
from app.domain.doubt import SetKind
from app.learning import NO_DEBT, Adapter, Debt, debt, fold_in
from app.observability import span
from app.serving.advantages import explain_action
from app.serving.answers import (
    ActionAnswer,
    ActionExplanation,
    By,
    ItemsAnswer,
    Pessimism,
    PolicyAnswer,
    QueriesAnswer,
    RankAnswer,
    RankedItems,
    Replay,
    RewardsAnswer,
    SlateAnswer,
    UserSummary,
)
from app.serving.explanation import Explanation, explanation
from app.serving.idtable import IdsInText
from app.serving.lora import adapter_archive
from app.serving.memo import Memo
from app.serving.planning import (
    DEFAULT_PESSIMISM,
    Planner,
    action_answer,
    action_index,
    check_step,
    pessimism_of,
    policy_answer,
    state_index,
)
from app.serving.questions import item_queries, trajectory_queries
from app.serving.scoring import (
    answers_of,
    belief_about,
    belief_about_items,
    item_ids,
    items_alone,
    rank_items,
    ranking_of,
    ranking_of_items,
    reward_answers,
    score_items,
)
from app.serving.shared import Shared
from app.serving.slates import slate_answer
from app.serving.snapshot import Catalogue, FoldedUser, Ground, Scene, Snapshot, Versions, comparisons_of
from app.store import (
    Current,
    Database,
    EnvironmentState,
    Notice,
    Notices,
    UserCount,
    all_items,
    export_user,
    load_model,
    serving_state,
    stored_adapter,
    user_comparisons,
    user_count,
)

T = TypeVar("T")


SNAPSHOT_BYTES = 1 << 30
"""Published models kept in memory, of as many environments as fit."""

PAST_BYTES = 128 << 20
"""Versions that answers are given again from."""

CATALOGUE_BYTES = 1 << 30
SCENE_BYTES = 2 << 30
"""With rank 8, an item takes 720 bytes."""

ADAPTER_BYTES = 128 << 20
"""Some ten thousand users' adapters with 40 parameters each."""

INLINE_ITEMS = 5_000
"""Items that are ranked in the event loop: a tenth of a millisecond, less than a thread takes to wake up."""


class ServingRuntime:
    """One per process; made and used in one event loop, closed by who made it.

    Parameters
    ----------
    current
        What this process remembers of the database; without it, every request asks.
    cache_dir
        Where copies of published models lie for all processes of the host; without it each has its own in memory.
    compute_threads
        Threads for scoring, fold-ins and planning.
    plan_seconds
        Time that a robust policy may take; then the best certified policy so far is the answer.
    plan_tolerance
        Relative gap at which a robust policy counts as solved.
    folded_in
        Called after every fold-in with the seconds that it took.
    """

    def __init__(
        self,
        db: Database,
        current: Current | None = None,
        *,
        cache_dir: Path | None = None,
        compute_threads: int = 2,
        plan_seconds: float = 2.0,
        plan_tolerance: float = 1e-4,
        folded_in: Callable[[float], None] | None = None,
    ) -> None:
        self._db = db
        self._folded_in = folded_in
        self._current = current or Current(db, Notices(db.url))
        self._threads = ThreadPoolExecutor(compute_threads, thread_name_prefix="serving")
        self._snapshots = Memo[tuple[int, int, int], Snapshot](SNAPSHOT_BYTES, size=lambda one: one.size)
        self._catalogues = Memo[tuple[int, int], Catalogue](CATALOGUE_BYTES, size=lambda one: one.size)
        self._scenes = Memo[Versions, Scene](SCENE_BYTES, size=lambda one: one.size)
        self._past = Memo[Versions, Scene](PAST_BYTES, size=lambda one: one.size + one.snapshot.size)
        self._newest: dict[int, Versions] = {}
        self.unreadable_models = set[tuple[int, int]]()
        """Environments' ids and versions that were asked for and could not be read."""
        self._shared = Shared(db, cache_dir, self._compute)
        self._current.tell(self._shared.forget)
        self._current.tell(self._forget)
        self._users = Memo[tuple[int, int, int, int], FoldedUser](ADAPTER_BYTES, size=_user_bytes)
        self._plan_seconds, self._plan_tolerance = plan_seconds, plan_tolerance
        # Of their own, so that nobody's rewards wait for other people's plans.
        self._planning = ThreadPoolExecutor(compute_threads, thread_name_prefix="planning")
        self._plans = Planner(self._plan, seconds=plan_seconds, tolerance=plan_tolerance)

    async def aclose(self) -> None:
        """Wait for what is being computed, and forget everything."""
        await self._shared.aclose()
        for memo in (self._plans, self._users, self._past, self._scenes, self._catalogues, self._snapshots):
            await memo.close()
        self._threads.shutdown()
        self._planning.shutdown()

    async def rewards(
        self,
        env: str,
        user: str,
        options: Sequence[Option],
        context: Context | None = None,
        *,
        after: int | None = None,
        replay: Replay | None = None,
    ) -> RewardsAnswer:
        """What each option is worth to the user; `after` is the position of a transaction that must be in the answer.

        Raises
        ------
        ModelNotReadyError
            No model has been published yet.
        InvalidInputError
            An option or context that this environment cannot have.
        """
        ground = await self._ground(env, user, after, replay)
        items = items_alone(options, context)
        found = None if items is None else score_items(ground, IdsInText.of(items))
        if found is not None:
            return RewardsAnswer(**ground.grounds, rewards=answers_of(found.numbers))
        belief = await self._compute(lambda: belief_about(ground, options, context))
        return RewardsAnswer(**ground.grounds, rewards=reward_answers(belief, ground.environment.confidence))

    async def rank(
        self,
        env: str,
        user: str,
        options: Sequence[Option] | None = None,
        context: Context | None = None,
        *,
        top_n: int | None = None,
        by: By = "mean",
        after: int | None = None,
        replay: Replay | None = None,
    ) -> RankAnswer:
        """The options, or the whole catalogue, best first."""
        ground = await self._ground(env, user, after, replay)
        if options is None and not ground.catalogue.ids:
            raise InvalidInputError(
                f"options: environment {env!r} has no items of its own, so there is nothing to rank without them.",
                pointer="/options",
            )
        items = items_alone(options or (), context)
        found = None
        if items is not None:
            found = await self._rank_items(ground, None if options is None else items, top_n=top_n, by=by)
        if found is not None:
            ranked = await self._compute(partial(ranking_of_items, found))
            return RankAnswer(**ground.grounds, by=by, ranking=ranked)
        if options is None:
            features = ground.catalogue.features
            belief = await self._compute(lambda: belief_about_items(ground, features, context))
            ids: Sequence[str | None] = ground.catalogue.ids
        else:
            belief = await self._compute(lambda: belief_about(ground, options, context))
            ids = item_ids(options)
        ranking = ranking_of(
            belief, ground.environment.confidence, by=by, top_n=top_n, ids=ids, given=options is not None
        )
        return RankAnswer(**ground.grounds, by=by, ranking=ranking)

    async def item_rewards(
        self, env: str, user: str, items: IdsInText, *, after: int | None = None
    ) -> ItemsAnswer | None:
        """Rewards of a catalogue's items without context; None where they need the general way."""
        ground = await self._ground(env, user, after)
        return score_items(ground, items)

    async def item_ranking(
        self,
        env: str,
        user: str,
        items: Sequence[str] | None = None,
        *,
        top_n: int | None = None,
        by: By = "mean",
        after: int | None = None,
    ) -> RankedItems | None:
        """A catalogue's items, or some of them, best first; None where they need the general way."""
        return await self._rank_items(await self._ground(env, user, after), items, top_n=top_n, by=by)

    async def _rank_items(
        self, ground: Ground, items: Sequence[str] | None, *, top_n: int | None, by: By
    ) -> RankedItems | None:
        n = len(ground.catalogue.ids) if items is None else len(items)
        if n <= INLINE_ITEMS:
            return rank_items(ground, items, top_n=top_n, by=by)
        return await self._compute(lambda: rank_items(ground, items, top_n=top_n, by=by))

    async def policy(
        self,
        env: str,
        user: str,
        *,
        confidence: float | None = None,
        kind: SetKind | None = None,
        context: Context | None = None,
        after: int | None = None,
        replay: Replay | None = None,
    ) -> PolicyAnswer:
        """The whole robust policy; `confidence` 0 plans for the estimate alone, nothing asked takes the default."""
        ground = await self._ground(env, user, after, replay)
        pessimism = pessimism_of(ground.environment, confidence, kind)
        said = await self._looked_at(env, user, ground, pessimism)
        return policy_answer(ground, await self._plans.plan(ground, pessimism, context, said=said))

    async def actions(
        self,
        env: str,
        user: str,
        state: int | str | None = None,
        step: int = 0,
        *,
        confidence: float | None = None,
        kind: SetKind | None = None,
        context: Context | None = None,
        seed: int | None = None,
        after: int | None = None,
        replay: Replay | None = None,
    ) -> ActionAnswer:
        """What to do in a state, by name or index, at a step; or what to choose from a catalogue."""
        places = [(state, step)]
        (answer,) = await self.actions_at(
            env, user, places, confidence=confidence, kind=kind, context=context, seed=seed, after=after, replay=replay
        )
        return answer

    async def actions_at(
        self,
        env: str,
        user: str,
        places: Sequence[tuple[int | str | None, int]],
        *,
        confidence: float | None = None,
        kind: SetKind | None = None,
        context: Context | None = None,
        seed: int | None = None,
        after: int | None = None,
        replay: Replay | None = None,
    ) -> list[ActionAnswer]:
        """What to do in each of several states at their steps."""
        ground = await self._ground(env, user, after, replay)
        pessimism = pessimism_of(ground.environment, confidence, kind)
        at = [(state_index(ground, state), check_step(ground, step)) for state, step in places]
        said = await self._looked_at(env, user, ground, pessimism)
        plans = await self._plans.at(ground, pessimism, context, at, said=said)
        return [
            action_answer(ground, made, *place, from_state=from_state, seed=seed)
            for place, (made, from_state) in zip(at, plans, strict=True)
        ]

    async def slate(
        self,
        env: str,
        user: str,
        size: int,
        *,
        confidence: float | None = None,
        kind: SetKind | None = None,
        context: Context | None = None,
        seed: int | None = None,
        after: int | None = None,
        replay: Replay | None = None,
    ) -> SlateAnswer:
        """Several items of a catalogue at once."""
        ground = await self._ground(env, user, after, replay)
        if not isinstance(ground.environment, CatalogEnvironment):
            raise InvalidInputError(f"environment {env!r} is an MDP, and has no items to choose from.")
        pessimism = pessimism_of(ground.environment, confidence, kind)
        limits = {"tolerance": self._plan_tolerance, "seconds": self._plan_seconds}
        return await self._plan(lambda: slate_answer(ground, pessimism, size, context=context, seed=seed, **limits))

    async def explain_action(
        self,
        env: str,
        user: str,
        state: int | str | None = None,
        step: int = 0,
        *,
        action: int | str | None = None,
        confidence: float | None = None,
        kind: SetKind | None = None,
        context: Context | None = None,
        n: int = 5,
        after: int | None = None,
    ) -> ActionExplanation:
        """Why the plan does what it does in a state at a step, or what speaks for another action there."""
        ground = await self._ground(env, user, after)
        pessimism = pessimism_of(ground.environment, confidence, kind)
        place = (state_index(ground, state), check_step(ground, step))
        chosen = action_index(ground, action)
        said = await user_comparisons(self._db, env, user)
        ((made, from_state),) = await self._plans.at(ground, pessimism, context, [place], said=said)
        words = await export_user(self._db, env, user) if ground.user.feedback_seen else []
        return await self._compute(
            lambda: explain_action(
                ground, made, place, chosen, said, words, context=context, from_state=from_state, n=n
            )
        )

    async def queries(
        self, env: str, user: str, n: int = 1, *, context: Context | None = None, after: int | None = None
    ) -> QueriesAnswer:
        """At most n pairs to ask the user next, none of which they have answered."""
        ground = await self._ground(env, user, after)
        said = await export_user(self._db, env, user) if ground.user.feedback_seen else []
        if isinstance(ground.environment, MdpEnvironment):
            made = await self._plans.plan(ground, DEFAULT_PESSIMISM, context)
            queries = await self._compute(lambda: trajectory_queries(ground, n, said, made))
        else:
            queries = await self._compute(lambda: item_queries(ground, n, said, context))
        return QueriesAnswer(**ground.grounds, queries=queries)

    async def explain(
        self,
        env: str,
        user: str,
        option: Option | dict[str, Any] | None = None,
        context: Context | None = None,
        *,
        n: int = 5,
        after: int | None = None,
    ) -> Explanation:
        """Why a reward is what it is for the user: their comparisons that moved it, and where they stand out."""
        ground = await self._ground(env, user, after)
        said = await export_user(self._db, env, user)
        table = await user_comparisons(self._db, env, user)
        return await self._compute(lambda: explanation(ground, said, table, option=option, context=context, n=n))

    async def adapter_archive(self, env: str, user: str, *, after: int | None = None) -> bytes:
        """The user's adapter in the files that PEFT reads, as a zip."""
        ground = await self._ground(env, user, after)
        return await self._compute(lambda: adapter_archive(ground, user))

    async def _looked_at(self, env: str, user: str, ground: Ground, pessimism: Pessimism) -> PreferenceTable | None:
        """What the user said, for the set that looks at it."""
        if pessimism.set != "likelihood_ratio" or not ground.user.feedback_seen:
            return None
        return await user_comparisons(self._db, env, user, first=ground.user.feedback_seen)

    async def user_summary(self, env: str, user: str, *, after: int | None = None) -> UserSummary | None:
        """How the user's adapter was estimated; None before the first model."""
        try:
            ground = await self._ground(env, user, after)
        except ModelNotReadyError:
            return None
        adapter = ground.adapter
        return UserSummary(
            **ground.grounds, rank=ground.model.rank, converged=adapter.converged, iterations=adapter.iterations
        )

    async def debt(self, env: str, user: str) -> tuple[int, Debt] | None:
        """What the published model's shared parameters owe to a user at most, and its version; None without a model."""
        environment = await self._current.environment(env)
        version = environment.published_version
        if version is None:
            return None
        stored = await stored_adapter(self._db, env, version, user)
        if stored is None or not stored.feedback_count:
            return version, NO_DEBT
        scene = self._scenes.peek(environment.versions) or await self._scenes.get(
            environment.versions, lambda: self._load_scene(environment)
        )
        said = await user_comparisons(self._db, env, user, first=stored.feedback_count)
        snapshot = scene.snapshot
        return version, await self._compute(
            lambda: debt(snapshot.model, comparisons_of(snapshot, said), n_users=snapshot.n_users)
        )

    async def warm(self, env: str) -> None:
        """Have an environment's newest model at hand before anybody asks."""
        environment = await self._current.environment(env)
        if environment.published_version is not None:
            await self._scenes.get(environment.versions, lambda: self._load_scene(environment))

    def _forget(self, notice: Notice) -> None:
        """Drop the adapter and the plans of a user who was erased, and versions that may have been emptied."""
        gone = notice.erased_key
        if notice.users is None:
            self._past.drop(lambda key: notice.environment_id in {None, key[0]})
        if gone is not None and notice.environment_id is not None:
            self._users.drop(lambda key: key[2] == gone)
            self._plans.drop_user(notice.environment_id, gone)

    async def _ground(self, env: str, user: str, after: int | None, replay: Replay | None = None) -> Ground:
        if replay is not None:
            return await self._ground_as_it_was(env, user, replay)
        environment, said = await self._current.user(env, user, after)
        if environment.published_version is None:
            raise ModelNotReadyError(_not_ready(env, (await serving_state(self._db, env, user)).preference_count))
        scene = self._scenes.peek(environment.versions) or await self._scene(environment)
        folded = await self._fold_in(environment, user, said, scene)
        return Ground(
            environment_id=environment.id,
            user_key=said.user_key if said.feedback_count else None,
            scene=scene,
            user=folded,
        )

    async def _ground_as_it_was(self, env: str, user: str, replay: Replay) -> Ground:
        """What an answer of then rested on; the environment and the catalogue are as they are now.

        Raises
        ------
        NotFoundError
            There is no such version, or the user has not said as much.
        RefitStateError
            The version is gone, because somebody whom it rested on was erased.
        """
        environment = await self._current.environment(env)
        n, versions = replay.feedback_seen, (*environment.versions[:3], replay.model_version)
        newest = self._scenes.peek(versions) if versions == environment.versions else None
        scene = newest or await self._past.get(versions, lambda: self._past_scene(environment, replay.model_version))
        said = await user_comparisons(self._db, env, user, first=n)
        if len(said) < n:
            raise NotFoundError(f"User {user!r} of environment {env!r} has said {len(said)} things, and not {n}.")
        who = await user_count(self._db, environment.id, user)
        if n == 0:
            return Ground(environment_id=environment.id, user_key=None, scene=scene, user=scene.nobody)
        kept = await stored_adapter(self._db, env, replay.model_version, user)
        if kept is not None and kept.feedback_count == n:
            folded = FoldedUser.of(scene.snapshot.model, Adapter.from_arrays(kept.arrays), n)
        else:
            snapshot = scene.snapshot
            folded = await self._compute(lambda: FoldedUser.of(snapshot.model, fold_in_user(snapshot, said), n))
        return Ground(environment_id=environment.id, user_key=who.user_key, scene=scene, user=folded)

    async def _past_scene(self, environment: EnvironmentState, version: int) -> Scene:
        stored = await load_model(self._db, environment.definition.name, version)
        snapshot = await self._compute(lambda: Snapshot.of(environment.definition, stored))
        catalogue = await self._catalogue(environment)
        # Nobody asks for it often enough to project the catalogue first.
        return Scene.of((*environment.versions[:3], version), snapshot, catalogue, None)

    async def _scene(self, environment: EnvironmentState) -> Scene:
        """The newest; where only another model was published, the one before until the new one is at hand."""
        coming = asyncio.ensure_future(self._scenes.get(environment.versions, lambda: self._load_scene(environment)))
        before = self._newest.get(environment.id)
        if self._current.is_listening and before is not None and before[:3] == environment.versions[:3]:
            scene = self._scenes.peek(before)
            if scene is not None:
                coming.add_done_callback(_retrieve)
                return scene
        return await coming

    async def _load_scene(self, environment: EnvironmentState) -> Scene:
        here, versions = environment.id, environment.versions
        version = environment.published_version
        assert version is not None
        key = (here, environment.revision, version)
        try:
            snapshot = await self._snapshots.get(key, lambda: self._load_snapshot(environment, version))
        except (CorruptModelError, KeyError, ValueError):
            self.unreadable_models.add((here, version))
            raise
        catalogue = await self._catalogue(environment)
        before = self._newest.get(here)
        known = None if before is None else self._scenes.peek(before)
        projection = await self._shared.projection(versions, snapshot, catalogue, known)
        scene = Scene.of(versions, snapshot, catalogue, projection)
        self._newest[here] = versions
        self._shared.map_adapters(here, snapshot)
        self._scenes.drop(lambda key: key[0] == here and key != versions)
        self._users.drop(lambda key: key[0] == here and key[1] != version)
        self._plans.drop(here)
        return scene

    async def _load_snapshot(self, environment: EnvironmentState, version: int) -> Snapshot:
        try:
            stored = await self._shared.model(environment.id, environment.definition.name, version)
        except RefitStateError as error:
            # Emptied a moment ago, by the one that took its place.
            raise StoreUnavailableError("The published model changed meanwhile; ask again.") from error
        snapshot = await self._compute(lambda: Snapshot.of(environment.definition, stored))
        here = environment.id
        self._snapshots.drop(lambda key: key[0] == here and key[1:] != (environment.revision, version))
        return snapshot

    async def _catalogue(self, environment: EnvironmentState) -> Catalogue:
        if not isinstance(environment.definition, CatalogEnvironment):
            return NO_CATALOGUE
        key = (environment.id, environment.catalog_revision)
        return await self._catalogues.get(key, lambda: self._load_catalogue(environment))

    async def _load_catalogue(self, environment: EnvironmentState) -> Catalogue:
        table = await all_items(self._db, environment.definition.name)
        catalogue = await self._shared.catalogue(environment.id, environment.catalog_revision, table)
        here = environment.id
        self._catalogues.drop(lambda key: key[0] == here and key[1] != environment.catalog_revision)
        return catalogue

    async def _fold_in(self, environment: EnvironmentState, user: str, said: UserCount, scene: Scene) -> FoldedUser:
        if said.user_key is None or said.feedback_count == 0:
            return scene.nobody
        env, count, snapshot = environment.definition.name, said.feedback_count, scene.snapshot
        key = (environment.id, snapshot.version, said.user_key, count)
        known = self._users.peek(key)
        if known is not None:
            return known
        adapter = self._shared.adapter(environment.id, snapshot.version, said.user_key, count)
        if adapter is not None:
            folded = FoldedUser.of(snapshot.model, adapter, count)
            self._users.put(key, folded)
            return folded
        return await self._users.get(key, lambda: self._estimate(env, user, count, snapshot))

    async def _estimate(self, env: str, user: str, feedback_count: int, snapshot: Snapshot) -> FoldedUser:
        """The refit's own adapter where the user has said nothing since, else the solve over all that they said."""
        stored = await stored_adapter(self._db, env, snapshot.version, user)
        if stored is not None and stored.feedback_count == feedback_count:
            return FoldedUser.of(snapshot.model, Adapter.from_arrays(stored.arrays), feedback_count)
        begun = time.perf_counter()
        with span("fold_in"):
            said = await user_comparisons(self._db, env, user)
            folded = await self._compute(lambda: FoldedUser.of(snapshot.model, fold_in_user(snapshot, said), len(said)))
        if self._folded_in is not None:
            self._folded_in(time.perf_counter() - begun)
        return folded

    async def _plan(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._planning, work)

    async def _compute(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)


def _retrieve(coming: "asyncio.Future[Scene]") -> None:
    """Nobody waits for a scene that is loaded aside; who asks next meets its failure."""
    if not coming.cancelled():
        coming.exception()


NO_CATALOGUE = Catalogue.of(ItemTable((), np.zeros((0, 0), dtype=np.float32)))


def fold_in_user(snapshot: Snapshot, said: PreferenceTable) -> Adapter:
    """The user's adapter at the published subspace."""
    return fold_in(snapshot.model, comparisons_of(snapshot, said))


def _user_bytes(folded: FoldedUser) -> int:
    """A few hundred bytes of objects beside the arrays."""
    return folded.adapter.mean.nbytes + folded.adapter.covariance.nbytes + 500


def _not_ready(env: str, preference_count: int) -> str:
    stored = {0: "no preferences are", 1: "1 preference is"}.get(
        preference_count, f"{preference_count} preferences are"
    )
    return (
        f"Environment {env!r} has no published model yet; {stored} stored. Record preferences, then "
        f"POST /v1/admin/environments/{env}/retrain, or wait for the worker's schedule."
    )

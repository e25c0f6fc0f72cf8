"""What the database knows of refits and environments, as metrics: for those whose key may see the environments."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from prometheus_client.core import GaugeMetricFamily, Metric

from app.store import Database, EnvironmentHealth, QueueHealth, environment_health, queue_health


@dataclass(frozen=True, slots=True)
class _Fact:
    name: str
    told: str
    values: Callable[[EnvironmentHealth], Mapping[str, float] | float | None]
    """One number, or one by model."""
    labels: tuple[str, ...] = ("environment",)


_FACTS = (
    _Fact("psharelora_stored_preferences", "Preferences that are stored.", lambda one: one.preferences),
    _Fact(
        "psharelora_new_preferences",
        "Preferences that were stored since the newest refit began.",
        lambda one: one.new_preferences,
    ),
    _Fact("psharelora_model_version", "The published model's version.", lambda one: one.version),
    _Fact("psharelora_model_age_seconds", "Time since the model was published.", lambda one: one.age_seconds),
    _Fact(
        "psharelora_held_out_accuracy",
        "Share of held-out comparisons that were predicted, by model: the published one (new), one for everybody "
        "(global), one a user (per_user), and the one before (current).",
        lambda one: one.accuracy,
        ("environment", "model"),
    ),
    _Fact(
        "psharelora_held_out_log_loss",
        "Log-loss of the same in nats a comparison.",
        lambda one: one.log_loss,
        ("environment", "model"),
    ),
    _Fact(
        "psharelora_held_out_accuracy_lift",
        "Accuracy of the published model less that of one for everybody.",
        lambda one: one.lift,
    ),
    _Fact(
        "psharelora_calibration_error",
        "Expected calibration error of the published model's probabilities on held-out comparisons.",
        lambda one: one.calibration_error,
    ),
    _Fact(
        "psharelora_interval_coverage",
        "Share of simulated users' rewards inside their 95% intervals before these are widened to make it 95%.",
        lambda one: one.coverage,
    ),
    _Fact(
        "psharelora_subspace_distance",
        "Principal angle distance of the published model's subspace to the previous model's.",
        lambda one: one.distance_to_previous,
    ),
    _Fact(
        "psharelora_last_refit_failed",
        "1 where the newest refit that ended has failed.",
        lambda one: float(one.failed),
    ),
)


async def database_families(db: Database, names: frozenset[str] | None) -> list[Metric]:
    """Of these environments, or of all.

    Raises
    ------
    StoreUnavailableError
        `database_away` is the answer then.
    """
    queue, environments = await queue_health(db), await environment_health(db, names)
    return [_up(1.0), *_queue_families(queue), *(_family(fact, environments) for fact in _FACTS)]


def database_away() -> list[Metric]:
    return [_up(0.0)]


def described() -> list[Metric]:
    """Names, kinds and words."""
    nothing = QueueHealth(queued=0, running=0, oldest_seconds=0.0, heartbeat_age_seconds=None)
    return [_up(1.0), *_queue_families(nothing), *(_family(fact, ()) for fact in _FACTS)]


def _up(value: float) -> Metric:
    return GaugeMetricFamily("psharelora_database_up", "1 where the database answers.", value=value)


def _queue_families(queue: QueueHealth) -> list[Metric]:
    depth = GaugeMetricFamily("psharelora_refit_queue", "Refits that wait or run.", labels=["state"])
    depth.add_metric(["queued"], queue.queued)
    depth.add_metric(["running"], queue.running)
    oldest = GaugeMetricFamily(
        "psharelora_refit_oldest_seconds",
        "How long the oldest refit that waits has waited.",
        value=queue.oldest_seconds,
    )
    heartbeat = GaugeMetricFamily(
        "psharelora_worker_heartbeat_age_seconds", "Time since a worker was last heard of; none where none ever was."
    )
    if queue.heartbeat_age_seconds is not None:
        heartbeat.add_metric([], queue.heartbeat_age_seconds)
    return [depth, oldest, heartbeat]


def _family(fact: _Fact, environments: Sequence[EnvironmentHealth]) -> Metric:
    family = GaugeMetricFamily(fact.name, fact.told, labels=fact.labels)
    for one in environments:
        values = fact.values(one)
        if isinstance(values, Mapping):
            for model, value in values.items():
                family.add_metric([one.name, model], value)
        elif values is not None:
            family.add_metric([one.name], values)
    return family

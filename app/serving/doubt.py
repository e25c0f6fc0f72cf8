"""What a plan doubts about one user: `app.domain.doubt`, of what an answer rests on."""

import numpy as np
from numpy.typing import NDArray

from app.domain import Context, MdpEnvironment
from app.domain.doubt import Believed, Doubt
from app.domain.doubt import doubt_of as doubt_about
from app.learning import Comparisons, RewardBelief
from app.policy import FullSpace
from app.serving.answers import Pessimism
from app.serving.scoring import context_features
from app.serving.snapshot import Ground

Real = NDArray[np.float64]


def doubt_of(
    ground: Ground,
    belief: RewardBelief,
    pessimism: Pessimism,
    *,
    context: Context | None = None,
    said: Comparisons | None = None,
) -> Doubt:
    """The set that is asked for.

    Parameters
    ----------
    belief
        About the rewards that are decided about, of an MDP's whole horizon.
    said
        The user's own comparisons, for `likelihood_ratio`; none for a user without any.
    """
    about = Believed(
        ground.model,
        ground.adapter,
        belief,
        rows=lambda: adapter_rows(ground, context),
        full=lambda: _full_space(ground, len(belief.mean), context),
        said=said,
    )
    return doubt_about(about, pessimism.set, pessimism.confidence)


def adapter_rows(ground: Ground, context: Context | None) -> Real:
    """(m, p) what the adapter's entries multiply in the rewards that are decided about."""
    if isinstance(ground.environment, MdpEnvironment):
        tables = ground.snapshot.tables
        return ground.model.table_rows(tables.states, tables.actions)
    raw = context_features(ground.environment, context)
    return ground.model.projected_rewards(ground.adapter, ground.catalogue.features, raw)[1]


def _full_space(ground: Ground, rewards: int, context: Context | None) -> FullSpace:
    if isinstance(ground.environment, MdpEnvironment):
        shape = (len(ground.environment.states), len(ground.environment.actions))
        return FullSpace(shape, ground.snapshot.tables.states, ground.snapshot.tables.actions)
    features = ground.model.features
    column = features.context(context_features(ground.environment, context))
    return FullSpace((1, rewards), column[None], features.items(ground.catalogue.features))

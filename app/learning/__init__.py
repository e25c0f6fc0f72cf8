"""The method: comparisons in, a model out. NumPy and SciPy only."""

from app.learning.adapters import Adapter, Adapters
from app.learning.belief import RewardBelief
from app.learning.bounded import bounded, largest_share
from app.learning.comparisons import Comparisons
from app.learning.confidence import Calibration, adapter_covariance
from app.learning.debt import NO_DEBT, Debt, debt
from app.learning.diagnostics import Diagnostics
from app.learning.errors import FeatureShapeError, InvalidComparisonsError
from app.learning.features import FeatureMap
from app.learning.fitting import FitProgress, fit
from app.learning.influence import influences
from app.learning.items import NO_IDENTITY
from app.learning.likelihood import UserLikelihood, user_likelihood
from app.learning.metrics import Gains, Metrics, evaluate_predictions, gains_of_users
from app.learning.mle import Start
from app.learning.model import Model, ReferenceItem, fold_in, fold_in_users
from app.learning.preparation import prepare
from app.learning.projection import Projection, Taste, project, taste_of
from app.learning.queries import InformativePair, most_informative_pairs
from app.learning.subspace import principal_angle_distance

__all__ = [
    "NO_DEBT",
    "NO_IDENTITY",
    "Adapter",
    "Adapters",
    "Calibration",
    "Comparisons",
    "Debt",
    "Diagnostics",
    "FeatureMap",
    "FeatureShapeError",
    "FitProgress",
    "Gains",
    "InformativePair",
    "InvalidComparisonsError",
    "Metrics",
    "Model",
    "Projection",
    "ReferenceItem",
    "RewardBelief",
    "Start",
    "Taste",
    "UserLikelihood",
    "adapter_covariance",
    "bounded",
    "debt",
    "evaluate_predictions",
    "fit",
    "fold_in",
    "fold_in_users",
    "gains_of_users",
    "influences",
    "largest_share",
    "most_informative_pairs",
    "prepare",
    "principal_angle_distance",
    "project",
    "taste_of",
    "user_likelihood",
]

"""The vocabulary that every part of the service shares: values, and errors with a meaning."""

from app.domain.environment import (
    CatalogEnvironment,
    EncoderSpec,
    Environment,
    MdpEnvironment,
    RefitPolicy,
)
from app.domain.errors import (
    ConflictError,
    CorruptModelError,
    DomainError,
    EncoderUnavailableError,
    InvalidInputError,
    ModelNotReadyError,
    NotFoundError,
    OverloadedError,
    PermissionDeniedError,
    RateLimitedError,
    RefitStateError,
    StoreUnavailableError,
    UnauthenticatedError,
)
from app.domain.event import RankedEvent
from app.domain.keys import ApiKey, Scope
from app.domain.model import ModelStatus, ModelVersion, StoredModel
from app.domain.preference import (
    Context,
    FeaturesOption,
    Item,
    ItemOption,
    Option,
    Preference,
    Recorded,
    TextOption,
    TrajectoryOption,
)
from app.domain.refit import Refit, RefitPhase, RefitState

__all__ = [
    "ApiKey",
    "CatalogEnvironment",
    "ConflictError",
    "Context",
    "CorruptModelError",
    "DomainError",
    "EncoderSpec",
    "EncoderUnavailableError",
    "Environment",
    "FeaturesOption",
    "InvalidInputError",
    "Item",
    "ItemOption",
    "MdpEnvironment",
    "ModelNotReadyError",
    "ModelStatus",
    "ModelVersion",
    "NotFoundError",
    "Option",
    "OverloadedError",
    "PermissionDeniedError",
    "Preference",
    "RankedEvent",
    "RateLimitedError",
    "Recorded",
    "Refit",
    "RefitPhase",
    "RefitPolicy",
    "RefitState",
    "RefitStateError",
    "Scope",
    "StoreUnavailableError",
    "StoredModel",
    "TextOption",
    "TrajectoryOption",
    "UnauthenticatedError",
]

"""One tree of errors; a class is a meaning with a stable code, and knows nothing of HTTP.

DomainError
+-- InvalidInputError         the input contradicts its contract; `pointer` says where
+-- NotFoundError             no such environment, item, refit, model or key (or not yours to see)
+-- ConflictError             an id is taken by other content
+-- UnauthenticatedError      no key, or a key that is not valid
+-- PermissionDeniedError     a valid key without the needed scope
+-- RateLimitedError          the key has made as many requests as it may for now
+-- RefitStateError           the refit or model is not in a state that allows this
|   +-- ErasedMeanwhileError  somebody was erased while a refit ran
+-- ModelNotReadyError        nothing to answer from yet
+-- EncoderUnavailableError   the embeddings service did not answer
+-- StoreUnavailableError     the database did not answer
+-- OverloadedError           too much waits already; nothing was done
+-- CorruptModelError         a stored model cannot be read back
"""

from typing import ClassVar


class DomainError(Exception):
    code: ClassVar[str] = "error"

    def __init__(self, message: str, *, pointer: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.pointer = pointer
        """A JSON pointer into the request's body (RFC 6901), where one can be named."""


class InvalidInputError(DomainError):
    code = "invalid-input"


class NotFoundError(DomainError):
    code = "not-found"


class ConflictError(DomainError):
    code = "conflict"


class UnauthenticatedError(DomainError):
    code = "unauthenticated"


class PermissionDeniedError(DomainError):
    code = "permission-denied"


class RateLimitedError(DomainError):
    code = "rate-limited"

    def __init__(self, message: str, *, retry_after_seconds: int) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class RefitStateError(DomainError):
    code = "refit-state"


class ErasedMeanwhileError(RefitStateError):
    """A user was erased after the preferences of this fit were loaded: it must not be published."""


class ModelNotReadyError(DomainError):
    code = "model-not-ready"


class EncoderUnavailableError(DomainError):
    code = "encoder-unavailable"


class StoreUnavailableError(DomainError):
    code = "store-unavailable"


class OverloadedError(DomainError):
    code = "overloaded"


class CorruptModelError(DomainError):
    code = "corrupt-model"

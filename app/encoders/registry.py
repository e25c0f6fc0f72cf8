from functools import lru_cache
from typing import assert_never

from app.domain import EncoderSpec, InvalidInputError
from app.encoders.builtin import BUILTIN_DIM, BuiltinEncoder
from app.encoders.endpoint import UrlEncoder
from app.encoders.protocol import Encoder


@lru_cache(maxsize=256)
def encoder_for(spec: EncoderSpec, *, api_key: str | None = None) -> Encoder:
    """The encoder that an environment names; the same object for the same arguments.

    `api_key` is the bearer token for an embeddings endpoint; the built-in encoder has no use for it.
    """
    match spec.kind:
        case "builtin":
            if spec.dim != BUILTIN_DIM:
                raise InvalidInputError(f"the built-in encoder has {BUILTIN_DIM} dimensions; found {spec.dim}.")
            return BuiltinEncoder()
        case "url":
            if spec.url is None or spec.model is None:
                raise InvalidInputError("an embeddings endpoint needs its url and its model.")
            return UrlEncoder(spec.url, spec.model, dim=spec.dim, api_key=api_key)
        case _:
            assert_never(spec.kind)


async def probe_dim(url: str, model: str, *, api_key: str | None = None) -> int:
    """How wide an endpoint's embeddings are: asks for one."""
    rows = await UrlEncoder(url, model, api_key=api_key).encode(["How wide is this?"])
    return int(rows.shape[1])

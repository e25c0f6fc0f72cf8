"""Text -> features: the built-in encoder, or any OpenAI-compatible embeddings endpoint."""

from app.encoders.builtin import BUILTIN_DIM, BuiltinEncoder
from app.encoders.endpoint import UrlEncoder
from app.encoders.protocol import Encoder
from app.encoders.registry import encoder_for, probe_dim

__all__ = ["BUILTIN_DIM", "BuiltinEncoder", "Encoder", "UrlEncoder", "encoder_for", "probe_dim"]

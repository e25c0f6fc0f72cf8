"""The built-in encoder: wordllama's averaged token embeddings, whose weights come in its wheel (no download)."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any

import anyio.to_thread
import numpy as np
from numpy.typing import NDArray

BUILTIN_DIM = 256
"""Width of the weights that wordllama's wheel carries."""

_loading = Lock()


class BuiltinEncoder:
    """About 19,000 short texts a second on one core; the weights (16 MB) are loaded with the first text."""

    @property
    def dim(self) -> int:
        return BUILTIN_DIM

    async def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        if not texts:
            return np.empty((0, BUILTIN_DIM), dtype=np.float32)
        return await anyio.to_thread.run_sync(_encode, list(texts))


def _encode(texts: list[str]) -> NDArray[np.float32]:
    """Rows of unit length, so that a long text weighs no more than a short one; zeros for a text without a token."""
    with _loading:
        model = _load()
    rows: NDArray[np.float32] = np.asarray(model.embed(texts), dtype=np.float32)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    rows /= np.where(lengths > 0, lengths, 1)
    return rows


@lru_cache(maxsize=1)
def _load() -> Any:
    import wordllama

    # Its default looks for the tokenizer outside the package, and then in the network.
    return wordllama.WordLlama.load(cache_dir=Path(wordllama.__file__).parent, disable_download=True)

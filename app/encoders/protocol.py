from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Encoder(Protocol):
    """Turns texts into feature rows; the same text always gives the same row."""

    @property
    def dim(self) -> int:
        """How many features a text becomes."""
        ...

    async def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """The (m, dim) features of m texts, in their order.

        Raises
        ------
        EncoderUnavailableError
            The embeddings service did not answer, or not with what was asked for.
        """
        ...

"""An encoder behind HTTP: anything that speaks OpenAI's `POST /v1/embeddings`."""

import ssl
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import anyio
import httpx
import numpy as np
from numpy.typing import NDArray

from app.domain import EncoderUnavailableError

BATCH_TEXTS = 128
"""Texts in one request: well inside what the usual servers take (OpenAI: 2,048; TEI: 32 to 512 by its settings)."""

ATTEMPTS = 3
"""Requests made for a batch before giving up; someone is waiting for the answer."""

FIRST_PAUSE_SECONDS = 0.2
"""Pause before the second attempt; it doubles with each further one."""

LONGEST_PAUSE_SECONDS = 5.0
"""No `Retry-After` makes us wait longer than this."""

RETRIED_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Answers that say "later" rather than "no"."""


class UrlEncoder:
    """Embeddings from an OpenAI-compatible endpoint.

    A call opens its own connections and closes them again: the encoder is tied to no event loop and needs no closing.

    Parameters
    ----------
    url
        The endpoint itself (`https://host/v1/embeddings`) or its base (`https://host/v1`).
    dim
        The width that every embedding must have; None accepts any one width (for probing).
    api_key
        Sent as a bearer token, and never repeated in a message.
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        dim: int | None = None,
        api_key: str | None = None,
        timeout_seconds: float = 20.0,
        batch_texts: int = BATCH_TEXTS,
        first_pause_seconds: float = FIRST_PAUSE_SECONDS,
    ) -> None:
        base = url.rstrip("/")
        self._url = base if base.endswith("/embeddings") else f"{base}/embeddings"
        self._model = model
        self._dim = dim
        self._headers = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
        self._timeout = httpx.Timeout(timeout_seconds, connect=min(5.0, timeout_seconds))
        self._batch_texts = batch_texts
        self._first_pause = first_pause_seconds

    @property
    def dim(self) -> int:
        if self._dim is None:
            raise ValueError("the endpoint's width is not known; ask probe_dim for it first.")
        return self._dim

    async def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        if not texts:
            return np.empty((0, self._dim or 0), dtype=np.float32)
        async with self._open_client() as client:
            starts = range(0, len(texts), self._batch_texts)
            batches = [await self._encode_batch(client, list(texts[s : s + self._batch_texts])) for s in starts]
        widths = {batch.shape[1] for batch in batches}
        if len(widths) > 1:
            raise EncoderUnavailableError(f"{self._who()} answered embeddings of different widths: {sorted(widths)}.")
        return np.concatenate(batches)

    def _open_client(self) -> httpx.AsyncClient:
        try:
            return httpx.AsyncClient(headers=self._headers, timeout=self._timeout, verify=_trust())
        except UnicodeEncodeError as error:
            raise EncoderUnavailableError(f"{self._who()}: the API key holds characters outside ASCII.") from error

    async def _encode_batch(self, client: httpx.AsyncClient, texts: list[str]) -> NDArray[np.float32]:
        body = {"model": self._model, "input": texts, "encoding_format": "float"}
        pause = self._first_pause
        for attempt in range(1, ATTEMPTS + 1):
            try:
                response = await client.post(self._url, json=body)
            except httpx.TransportError as error:
                reason, wait = f"did not answer ({type(error).__name__})", pause
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                raise EncoderUnavailableError(f"{self._who()} cannot be asked: {type(error).__name__}.") from error
            else:
                if response.is_success:
                    return self._read(response, len(texts))
                reason = f"answered with status {response.status_code}"
                if response.status_code not in RETRIED_STATUSES:
                    raise EncoderUnavailableError(f"{self._who()} {reason}.")
                wait = _retry_after(response, pause)
            if attempt < ATTEMPTS:
                await anyio.sleep(wait)
            pause *= 2
        raise EncoderUnavailableError(f"{self._who()} {reason}, {ATTEMPTS} times.")

    def _read(self, response: httpx.Response, n_texts: int) -> NDArray[np.float32]:
        rows = _embeddings_in_order(response)
        if rows is None or len(rows) != n_texts:
            raise EncoderUnavailableError(f"{self._who()} did not answer one embedding for each of {n_texts} texts.")
        expected = rows.shape[1] if self._dim is None else self._dim
        if rows.shape[1] != expected or expected == 0:
            raise EncoderUnavailableError(
                f"{self._who()} answered embeddings of {rows.shape[1]} numbers where {expected} were expected."
            )
        if not np.isfinite(rows).all():
            raise EncoderUnavailableError(f"{self._who()} answered an embedding that is not finite.")
        return rows

    def _who(self) -> str:
        try:
            host = httpx.URL(self._url).netloc.decode("ascii")
        except httpx.InvalidURL:
            host = "(not a valid address)"
        return f"the embeddings endpoint at {host}"


@lru_cache(maxsize=1)
def _trust() -> ssl.SSLContext:
    """Reading the certificates takes some 20 ms, too long for every call."""
    return ssl.create_default_context()


def _embeddings_in_order(response: httpx.Response) -> NDArray[np.float32] | None:
    """The (m, width) embeddings sorted by their `index`, or None if the body has another shape."""
    try:
        entries: list[dict[str, Any]] = response.json()["data"]
        ordered = sorted(entries, key=lambda entry: int(entry["index"]))
        complete = [int(entry["index"]) for entry in ordered] == list(range(len(ordered)))
        rows = np.asarray([entry["embedding"] for entry in ordered], dtype=np.float32)
    except (ValueError, TypeError, KeyError, OverflowError):
        return None
    return rows if complete and rows.ndim == 2 else None


def _retry_after(response: httpx.Response, otherwise: float) -> float:
    try:
        asked = float(response.headers.get("Retry-After", ""))
    except ValueError:
        return otherwise
    return min(max(asked, 0.0), LONGEST_PAUSE_SECONDS)

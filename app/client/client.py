"""A synchronous client over httpx: one method a call of the HTTP contract, version 1."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Literal, Self
from urllib.parse import quote

import httpx

from app.client.errors import ApiError, ServerUnreachableError

Json = dict[str, Any]

FINISHED_STATES = frozenset({"succeeded", "failed", "cancelled"})


class Client:
    """Talks to one service with one API key.

    Parameters
    ----------
    base_url
        Address of the service, such as ``http://127.0.0.1:8000``.
    key
        An API key; None where the service runs without authentication.
    timeout_seconds
        Longest wait for one answer.

    Raises
    ------
    ApiError
        From every method, when the service refuses; carries the problem document.
    ServerUnreachableError
        From every method, when no answer comes.
    """

    def __init__(self, base_url: str, *, key: str | None = None, timeout_seconds: float = 30.0) -> None:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._http = httpx.Client(base_url=base_url, headers=headers, timeout=timeout_seconds)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    # Environments and items

    def put_environment(self, environment: str, definition: Mapping[str, Any]) -> Json:
        return self._json("PUT", _path(environment), json=definition)

    def environment(self, environment: str) -> Json:
        return self._json("GET", _path(environment))

    def environments(self) -> Json:
        return self._json("GET", "/v1/environments")

    def delete_environment(self, environment: str) -> None:
        self._request("DELETE", _path(environment))

    def put_items(self, environment: str, items: Sequence[Mapping[str, Any]]) -> Json:
        return self._json("PUT", f"{_path(environment)}/items", json={"items": list(items)})

    def items(self, environment: str, *, limit: int | None = None, after: str | None = None) -> Json:
        """One page of the catalogue, by id; `next` is the `after` of the following one."""
        parameters = _without_none({"limit": limit, "after": after})
        return self._json("GET", f"{_path(environment)}/items", params=parameters)

    def delete_item(self, environment: str, item: str) -> None:
        self._request("DELETE", f"{_path(environment)}/items/{quote(item, safe='')}")

    # Feedback

    def record(self, environment: str, preferences: Sequence[Mapping[str, Any]]) -> Json:
        """Store at most 1,000 preferences, all or nothing; the answer comes after the commit."""
        return self._json("POST", f"{_path(environment)}/preferences", json={"preferences": list(preferences)})

    def import_lines(self, environment: str, lines: Iterable[bytes]) -> Json:
        """Stream NDJSON of any length; answers counts and the first bad lines by number."""
        headers = {"Content-Type": "application/x-ndjson"}
        path = f"{_path(environment)}/preferences/import"
        return self._json("POST", path, content=iter(lines), headers=headers, timeout=None)

    # One user's answers

    def user(self, environment: str, user: str) -> Json:
        return self._json("GET", _path(environment, user))

    def export_user(self, environment: str, user: str) -> str:
        return self._request("GET", f"{_path(environment, user)}/export").text

    def erase_user(self, environment: str, user: str) -> Json:
        return self._json("DELETE", _path(environment, user))

    def rewards(
        self, environment: str, user: str, options: Sequence[Mapping[str, Any]], *, context: Json | None = None
    ) -> Json:
        body = _without_none({"options": list(options), "context": context})
        return self._json("POST", f"{_path(environment, user)}/rewards", json=body)

    def rank(
        self,
        environment: str,
        user: str,
        *,
        options: Sequence[Mapping[str, Any]] | None = None,
        context: Json | None = None,
        top_n: int | None = None,
        by: Literal["mean", "lower"] = "mean",
    ) -> Json:
        """Options best first; without `options` the whole catalogue is ranked."""
        listed = None if options is None else list(options)
        body = _without_none({"options": listed, "context": context, "top_n": top_n, "by": by})
        return self._json("POST", f"{_path(environment, user)}/rank", json=body)

    def actions(
        self,
        environment: str,
        user: str,
        *,
        state: str | int,
        step: int,
        confidence: float | None = None,
        kind: str | None = None,
    ) -> Json:
        """The robust action; `kind` is the API's `set`."""
        parameters = _without_none({"state": state, "step": step, "confidence": confidence, "set": kind})
        return self._json("GET", f"{_path(environment, user)}/actions", params=parameters)

    def actions_at(
        self,
        environment: str,
        user: str,
        places: Sequence[Mapping[str, Any]],
        *,
        confidence: float | None = None,
        kind: str | None = None,
        context: Json | None = None,
        seed: int | None = None,
    ) -> Json:
        """The robust actions in several places, `{"state", "step"}` each, by one plan."""
        asked = {"confidence": confidence, "set": kind, "context": context, "seed": seed}
        body = _without_none({"places": [dict(place) for place in places], **asked})
        return self._json("POST", f"{_path(environment, user)}/actions/batch", json=body)

    def explain_action(self, environment: str, user: str, **asked: Any) -> Json:
        """Why an action; takes `state`, `step`, `action`, `confidence`, `set`, `context` and `n` as the API does."""
        return self._json("POST", f"{_path(environment, user)}/actions/explanation", json=_without_none(asked))

    def policy(self, environment: str, user: str, *, confidence: float | None = None, kind: str | None = None) -> Json:
        parameters = _without_none({"confidence": confidence, "set": kind})
        return self._json("GET", f"{_path(environment, user)}/policy", params=parameters)

    def queries(self, environment: str, user: str, *, n: int = 1) -> Json:
        return self._json("GET", f"{_path(environment, user)}/queries", params={"n": n})

    # Administration

    def retrain(self, environment: str) -> Json:
        return self._json("POST", f"/v1/admin/environments/{quote(environment, safe='')}/retrain")

    def refit(self, refit: str) -> Json:
        return self._json("GET", f"/v1/admin/refits/{refit}")

    def refits(self, environment: str) -> Json:
        return self._json("GET", f"/v1/admin/environments/{quote(environment, safe='')}/refits")

    def cancel_refit(self, refit: str) -> Json:
        return self._json("POST", f"/v1/admin/refits/{refit}/cancel")

    def wait_for_refit(
        self, refit: str, *, timeout_seconds: float = 600.0, progress: Callable[[Json], None] | None = None
    ) -> Json:
        """Poll a refit until it has ended, however it ended.

        Raises
        ------
        TimeoutError
            It was still going on after `timeout_seconds`; it goes on all the same.
        """
        deadline = time.monotonic() + timeout_seconds
        while time.monotonic() < deadline:
            state = self.refit(refit)
            if progress is not None:
                progress(state)
            if state["state"] in FINISHED_STATES:
                return state
            time.sleep(0.2)
        raise TimeoutError(f"refit {refit} had not ended after {timeout_seconds:g} seconds")

    def models(self, environment: str) -> Json:
        return self._json("GET", f"/v1/admin/environments/{quote(environment, safe='')}/models")

    def model(self, environment: str, version: int) -> Json:
        return self._json("GET", f"/v1/admin/environments/{quote(environment, safe='')}/models/{version}")

    def promote(self, environment: str, version: int) -> Json:
        return self._json("POST", f"/v1/admin/environments/{quote(environment, safe='')}/models/{version}/promote")

    def create_key(self, name: str, scopes: Sequence[str], *, environments: Sequence[str] | None = None) -> Json:
        """The answer's `secret` is shown this once."""
        listed = None if environments is None else list(environments)
        body = _without_none({"name": name, "scopes": list(scopes), "environments": listed})
        return self._json("POST", "/v1/admin/keys", json=body)

    def keys(self) -> Json:
        return self._json("GET", "/v1/admin/keys")

    def revoke_key(self, key_id: str) -> Json:
        return self._json("DELETE", f"/v1/admin/keys/{quote(key_id, safe='')}")

    # Transport

    def _json(self, method: str, path: str, **arguments: Any) -> Json:
        body: Json = self._request(method, path, **arguments).json()
        return body

    def _request(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        try:
            response = self._http.request(method, path, **arguments)
        except httpx.TransportError as error:
            raise ServerUnreachableError(f"no answer from {self._http.base_url}: {error}") from error
        if response.is_error:
            raise ApiError(response.status_code, _problem(response))
        return response


def _path(environment: str, user: str | None = None) -> str:
    path = f"/v1/environments/{quote(environment, safe='')}"
    return path if user is None else f"{path}/users/{quote(user, safe='')}"


def _without_none(values: Mapping[str, Any]) -> Json:
    return {name: value for name, value in values.items() if value is not None}


def _problem(response: httpx.Response) -> Json:
    try:
        document = response.json()
    except ValueError:
        document = None
    return document if isinstance(document, dict) else {"detail": response.text[:500] or response.reason_phrase}

"""Every call of the HTTP contract, once, without I/O: the methods that both clients have."""

import hashlib
import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Literal
from urllib.parse import quote
from uuid import uuid4

from app.client import answers
from app.client.wire import Call, Json, Pause, Steps, as_bytes, as_json, as_nothing, as_text

FINISHED_STATES = frozenset({"succeeded", "failed", "cancelled"})

BATCH = 1000
"""Preferences or items in one request: the service's limit."""

POLL_SECONDS = 0.2
REPORTED_LINES = 20


# Environments and items


def put_environment(environment: str, definition: Mapping[str, Any]) -> Call[answers.Environment]:
    """Define an environment, or redefine it."""
    return Call("PUT", _path(environment), as_json, {"json": dict(definition)})


def environment(environment: str) -> Call[answers.Environment]:
    """An environment's definition, and how much is stored in it."""
    return Call("GET", _path(environment), as_json)


def environments() -> Call[answers.EnvironmentList]:
    """Those that the key can see."""
    return Call("GET", "/v1/environments", as_json)


def delete_environment(environment: str) -> Call[None]:
    """Delete an environment with everything in it."""
    return Call("DELETE", _path(environment), as_nothing)


def put_items(environment: str, items: Iterable[Mapping[str, Any]]) -> Steps[answers.Upserted]:
    """Add or change items of a catalogue, 1,000 a request."""
    total: answers.Upserted = {"created": 0, "updated": 0}
    for batch in _batches(items, BATCH):
        done = yield Call("PUT", f"{_path(environment)}/items", as_json, {"json": {"items": batch}})
        total = {"created": total["created"] + done["created"], "updated": total["updated"] + done["updated"]}
    return total


def items(environment: str, *, limit: int | None = None, after: str | None = None) -> Call[answers.ItemList]:
    """One page of the catalogue, by id; `next` is the `after` of the following one."""
    return Call("GET", f"{_path(environment)}/items", as_json, {"params": _given(limit=limit, after=after)})


def delete_item(environment: str, item: str) -> Call[None]:
    """Take an item out of the catalogue; what was said about it stays."""
    return Call("DELETE", f"{_path(environment)}/items/{_quoted(item)}", as_nothing)


# Feedback


def record(environment: str, preferences: Mapping[str, Any] | Iterable[Mapping[str, Any]]) -> Steps[answers.Recorded]:
    """Store one preference or many; answered after the commit.

    Each is given an `id` unless it has one, so that a request whose answer was lost is sent again without counting
    twice. Every 1,000 are stored all or nothing.
    """
    given = [preferences] if isinstance(preferences, Mapping) else preferences
    total: answers.Recorded = {"accepted": 0, "duplicates": 0}
    for batch in _batches(({"id": uuid4().hex, **one} for one in given), BATCH):
        done = yield Call("POST", f"{_path(environment)}/preferences", as_json, {"json": {"preferences": batch}})
        total = {name: total[name] + done[name] for name in total}  # type: ignore[literal-required, assignment]
    return total


def import_preferences(
    environment: str,
    preferences: Iterable[Mapping[str, Any]],
    *,
    progress: Callable[[int], None] | None = None,
) -> Steps[answers.Imported]:
    """Store preferences of any number; bad ones are named by their number, from 1, and do not stop the others.

    Each is given an `id` made of its content, unless it has one: the same preferences imported again count nothing
    twice, also after an import that broke off.

    Parameters
    ----------
    progress
        Called with how many have been acknowledged so far.
    """
    total: answers.Imported = {"accepted": 0, "duplicates": 0, "rejected": 0, "errors": []}
    done = 0
    for batch in _batches(_identified(preferences), BATCH):
        found: answers.Imported = yield _imported(environment, _lines(batch))
        total = {
            "accepted": total["accepted"] + found["accepted"],
            "duplicates": total["duplicates"] + found["duplicates"],
            "rejected": total["rejected"] + found["rejected"],
            "errors": [
                *total["errors"],
                *({**error, "line": error["line"] + done} for error in found["errors"]),
            ][:REPORTED_LINES],  # type: ignore[typeddict-item]
        }
        done += len(batch)
        if progress is not None:
            progress(done)
    return total


def import_lines(environment: str, lines: Iterable[bytes]) -> Call[answers.Imported]:
    """Stream NDJSON of any length in one request, which is not tried again."""
    return _imported(environment, iter(lines))


# One user's answers


def user(environment: str, user: str) -> Call[answers.User]:
    """What is known of a user."""
    return Call("GET", _path(environment, user), as_json)


def users(environment: str, *, limit: int | None = None, after: str | None = None) -> Call[Json]:
    """One page of the users with preferences, by id."""
    return Call("GET", f"{_path(environment)}/users", as_json, {"params": _given(limit=limit, after=after)})


def export_user(environment: str, user: str) -> Call[str]:
    """Everything the user said, as NDJSON."""
    return Call("GET", f"{_path(environment, user)}/export", as_text)


def erase_user(environment: str, user: str) -> Call[answers.Erased]:
    """Erase what a user said, and what is kept of it."""
    return Call("DELETE", _path(environment, user), as_json)


def rewards(
    environment: str,
    user: str,
    options: Sequence[Mapping[str, Any]],
    *,
    context: Mapping[str, Any] | None = None,
    replay: Mapping[str, Any] | None = None,
) -> Call[answers.Rewards]:
    """What options are worth to the user, one reward an option, in their order.

    `replay` is an earlier answer: the same is answered again, from its `model_version` and `feedback_seen`.
    """
    body = _given(options=list(options), context=context)
    return Call("POST", f"{_path(environment, user)}/rewards", as_json, {"json": body, **_again(replay)})


def rank(
    environment: str,
    user: str,
    *,
    options: Sequence[Mapping[str, Any]] | None = None,
    context: Mapping[str, Any] | None = None,
    top_n: int | None = None,
    by: Literal["mean", "lower"] = "mean",
    replay: Mapping[str, Any] | None = None,
) -> Call[answers.Ranking]:
    """Options best first; without `options` the whole catalogue is ranked. `replay` is as in `rewards`."""
    listed = None if options is None else list(options)
    body = _given(options=listed, context=context, top_n=top_n, by=by)
    return Call("POST", f"{_path(environment, user)}/rank", as_json, {"json": body, **_again(replay)})


def actions(
    environment: str,
    user: str,
    *,
    state: str | int,
    step: int,
    confidence: float | None = None,
    kind: str | None = None,
    replay: Mapping[str, Any] | None = None,
) -> Call[answers.Action]:
    """What to do for the user in a state at a step, by the robust policy; `kind` is the API's `set`.

    `replay` is as in `rewards`.
    """
    parameters = _given(state=state, step=step, confidence=confidence, set=kind, **_again(replay).get("params", {}))
    return Call("GET", f"{_path(environment, user)}/actions", as_json, {"params": parameters})


def actions_at(
    environment: str,
    user: str,
    places: Sequence[Mapping[str, Any]],
    *,
    confidence: float | None = None,
    kind: str | None = None,
    context: Mapping[str, Any] | None = None,
    seed: int | None = None,
) -> Call[answers.Actions]:
    """The robust actions in several places, `{"state", "step"}` each, by one plan."""
    asked = _given(confidence=confidence, set=kind, context=context, seed=seed)
    body = {"places": [dict(place) for place in places], **asked}
    return Call("POST", f"{_path(environment, user)}/actions/batch", as_json, {"json": body})


def slate(environment: str, user: str, size: int, **asked: Any) -> Call[Json]:
    """Several items at once, by a robust choice; takes `confidence`, `set`, `context` and `seed` as the API does."""
    body = {"size": size, **_given(**asked)}
    return Call("POST", f"{_path(environment, user)}/slates", as_json, {"json": body})


def explain_action(environment: str, user: str, **asked: Any) -> Call[Json]:
    """Why an action; takes `state`, `step`, `action`, `confidence`, `set`, `context` and `n` as the API does."""
    return Call("POST", f"{_path(environment, user)}/actions/explanation", as_json, {"json": _given(**asked)})


def policy(
    environment: str,
    user: str,
    *,
    confidence: float | None = None,
    kind: str | None = None,
    replay: Mapping[str, Any] | None = None,
) -> Call[answers.Policy]:
    """The whole robust policy, with its certificate; `kind` is the API's `set`, `replay` as in `rewards`."""
    parameters = _given(confidence=confidence, set=kind, **_again(replay).get("params", {}))
    return Call("GET", f"{_path(environment, user)}/policy", as_json, {"params": parameters})


def queries(environment: str, user: str, *, n: int = 1) -> Call[answers.Queries]:
    """The pairs whose answers would tell most about the user."""
    return Call("GET", f"{_path(environment, user)}/queries", as_json, {"params": {"n": n}})


def explain(
    environment: str,
    user: str,
    *,
    item: str | None = None,
    text: str | None = None,
    state: str | None = None,
    action: str | None = None,
    n: int = 5,
) -> Call[answers.Explanation]:
    """Why a reward is what it is: the user's answers that moved it, and where the user stands out."""
    parameters = _given(item=item, text=text, state=state, action=action, n=n)
    return Call("GET", f"{_path(environment, user)}/explain", as_json, {"params": parameters})


def adapter(environment: str, user: str) -> Call[bytes]:
    """A zip of the user's adapter in the files that PEFT reads."""
    return Call("GET", f"{_path(environment, user)}/adapter", as_bytes)


# Administration


def retrain(environment: str) -> Call[answers.Refit]:
    """Ask for a refit, or join the one that waits."""
    return Call("POST", f"{_admin(environment)}/retrain", as_json)


def refit(refit: str) -> Call[answers.Refit]:
    """How a refit goes, or how it went."""
    return Call("GET", f"/v1/admin/refits/{refit}", as_json)


def refits(environment: str) -> Call[answers.RefitList]:
    """The newest refits of an environment."""
    return Call("GET", f"{_admin(environment)}/refits", as_json)


def cancel_refit(refit: str) -> Call[answers.Refit]:
    """Ask a refit to end early."""
    return Call("POST", f"/v1/admin/refits/{refit}/cancel", as_json)


def wait_for_refit(
    refit_id: str, *, timeout_seconds: float = 600.0, progress: Callable[[answers.Refit], None] | None = None
) -> Steps[answers.Refit]:
    """Follow a refit until it has ended, however it ended.

    Parameters
    ----------
    progress
        Called with every state that is seen; `progress` in it runs from 0 to 1.

    Raises
    ------
    TimeoutError
        It was still going on after `timeout_seconds`; it goes on all the same.
    """
    deadline = time.monotonic() + timeout_seconds
    while time.monotonic() < deadline:
        state: answers.Refit = yield refit(refit_id)
        if progress is not None:
            progress(state)
        if state["state"] in FINISHED_STATES:
            return state
        yield Pause(POLL_SECONDS)
    raise TimeoutError(f"refit {refit_id} had not ended after {timeout_seconds:g} seconds")


def models(environment: str) -> Call[answers.ModelList]:
    """Model versions, newest first."""
    return Call("GET", f"{_admin(environment)}/models", as_json)


def model(environment: str, version: int) -> Call[answers.ModelVersion]:
    """One version, with its diagnostics and metrics."""
    return Call("GET", f"{_admin(environment)}/models/{version}", as_json)


def promote(environment: str, version: int) -> Call[answers.ModelVersion]:
    """Serve this version from now on."""
    return Call("POST", f"{_admin(environment)}/models/{version}/promote", as_json)


def create_key(
    name: str,
    scopes: Sequence[str],
    *,
    environments: Sequence[str] | None = None,
    expires_at: str | None = None,
    requests_per_minute: int | None = None,
) -> Call[Json]:
    """Make an API key; the answer's `secret` is shown this once. `expires_at` is RFC 3339."""
    listed = None if environments is None else list(environments)
    body = _given(
        name=name,
        scopes=list(scopes),
        environments=listed,
        expires_at=expires_at,
        requests_per_minute=requests_per_minute,
    )
    return Call("POST", "/v1/admin/keys", as_json, {"json": body}, repeatable=False)


def keys() -> Call[Json]:
    """API keys, without their secrets."""
    return Call("GET", "/v1/admin/keys", as_json)


def rotate_key(key_id: str, *, grace_seconds: float | None = None, expires_at: str | None = None) -> Call[Json]:
    """Make a key's successor; the old one goes on being valid for a day, or for `grace_seconds`."""
    body = _given(grace_seconds=grace_seconds, expires_at=expires_at)
    return Call("POST", f"/v1/admin/keys/{_quoted(key_id)}/rotate", as_json, {"json": body}, repeatable=False)


def revoke_key(key_id: str) -> Call[Json]:
    """Refuse a key from now on."""
    return Call("DELETE", f"/v1/admin/keys/{_quoted(key_id)}", as_json)


def audit(*, limit: int | None = None, before: int | None = None) -> Call[Json]:
    """What administrators did, newest first; read on with `before` = the answer's `next`."""
    return Call("GET", "/v1/admin/audit", as_json, {"params": _given(limit=limit, before=before)})


def health() -> Call[Json]:
    """Whether the service is ready, and the database's schema."""
    return Call("GET", "/readyz", as_json)


def _again(answer: Mapping[str, Any] | None) -> dict[str, Any]:
    """What names an earlier answer."""
    names = ("model_version", "feedback_seen")
    return {} if answer is None else {"params": {name: answer[name] for name in names}}


def _imported(environment: str, content: bytes | Iterator[bytes]) -> Call[answers.Imported]:
    arguments = {"content": content, "headers": {"Content-Type": "application/x-ndjson"}, "timeout": None}
    repeatable = isinstance(content, bytes)
    return Call("POST", f"{_path(environment)}/preferences/import", as_json, arguments, repeatable=repeatable)


def _identified(preferences: Iterable[Mapping[str, Any]]) -> Iterator[Json]:
    """With ids of their content; what is said several times is numbered."""
    seen = Counter[str]()
    for one in preferences:
        if "id" in one:
            yield dict(one)
            continue
        digest = content_id(one)
        seen[digest] += 1
        yield {**one, "id": f"{digest}-{seen[digest]}"}


def content_id(preference: Mapping[str, Any]) -> str:
    """The same for what says the same."""
    content = json.dumps(preference, sort_keys=True, ensure_ascii=False)
    return hashlib.blake2b(content.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def _lines(batch: Sequence[Json]) -> bytes:
    return b"".join(json.dumps(one).encode() + b"\n" for one in batch)


def _batches(values: Iterable[Any], size: int) -> Iterator[list[Any]]:
    remaining = iter(values)
    while batch := list(islice(remaining, size)):
        yield batch


def _path(environment: str, user: str | None = None) -> str:
    path = f"/v1/environments/{_quoted(environment)}"
    return path if user is None else f"{path}/users/{_quoted(user)}"


def _admin(environment: str) -> str:
    return f"/v1/admin/environments/{_quoted(environment)}"


def _quoted(name: str) -> str:
    return quote(name, safe="")


def _given(**values: Any) -> Json:
    return {name: value for name, value in values.items() if value is not None}

"""The rest of what an installation is asked for: rankings, policies, erasures, keys that come and go."""

import random
from contextlib import suppress

import httpx
from typing_extensions import override

from tests.support.api import Json, client_for
from tests.support.faults.clients import N_ITEMS, Client, Told, tried

COACHING: Json = {
    "kind": "mdp",
    "states": ["tired", "fit"],
    "actions": ["rest", "train"],
    "horizon": 3,
    "rank": 1,
    "initial": [0.5, 0.5],
    "transitions": [[s, a, a, 1.0] for s in range(2) for a in range(2)],
    "refit": {"every_seconds": 20, "min_new_preferences": 20},
}
PAUSE_SECONDS = 0.1

TRAINEE_ROUNDS = 360
"""Then the trainees say all of it again, and nothing more is stored."""

ERASURE_SECONDS = 45.0
"""Between erasures: longer than a refit takes here beside other work, which begins again when somebody is erased."""


class Ranker(Client):
    """The whole catalogue, best first, for users who come again and again."""

    @override
    def _round(self, http: httpx.Client, number: int) -> bool:
        self._stop.wait(PAUSE_SECONDS)
        user = f"first-u{number % 20}"
        path = self._path(f"users/{user}/rank")
        response = self._until(200, lambda: http.post(path, json={"top_n": 10, "by": "lower"}))
        if response is None:
            return False
        options = response.json()["options"]
        lowest = [one["lower"] for one in options]
        if len(options) != min(10, N_ITEMS) or lowest != sorted(lowest, reverse=True):
            self._told.wrong.append(f"a ranking of {user} is {response.text}")
        return True


class Trainee(Client):
    """Preferences between courses of an MDP, and the robust policy that comes of them; the schedule refits."""

    @override
    def _round(self, http: httpx.Client, number: int) -> bool:
        self._stop.wait(PAUSE_SECONDS)
        turn = self._turn(number)
        user = f"trainee-{turn % 12}"
        rng = random.Random(turn)
        actions = [rng.randrange(2) for _ in range(3)]
        chosen, other = ([[0, a], [a, b], [b, c]] for a, b, c in (actions, [1 - one for one in actions]))
        body = {"user": user, "id": f"t{turn}", "chosen": {"trajectory": chosen}, "rejected": {"trajectory": other}}
        if self._until(201, lambda: http.post(self._path("preferences"), json=body)) is None:
            return False
        if number < COACHING["refit"]["min_new_preferences"]:
            # There is no model before that.
            return True
        path = self._path(f"users/{user}/{'policy' if number % 5 else 'actions?state=fit&step=1'}")
        return self._until(200, lambda: http.get(path)) is not None


class Forgotten(Client):
    """Users who say something and have it erased; nothing of them may be left."""

    @override
    def _round(self, http: httpx.Client, number: int) -> bool:
        self._stop.wait(ERASURE_SECONDS)
        user = f"{self.name}-{number}"
        self._told.sent[user] = user
        body = {"id": user, "user": user, "chosen": {"item": "i1"}, "rejected": {"item": "i2"}}
        if self._until(201, lambda: http.post(self._path("preferences"), json=body)) is None:
            return False
        path = self._path(f"users/{user}")
        response = self._until(200, lambda: http.delete(path))
        return response is not None and self._knows_nothing(http, path)

    def _knows_nothing(self, http: httpx.Client, path: str) -> bool:
        response = tried(lambda: http.get(path), self._told, 200, 404)
        if response is not None and response.status_code == 200 and response.json().get("feedback_count"):
            self._told.wrong.append(f"after its erasure {path} is {response.text}")
        return True


class KeyHolder(Client):
    """A key is made, used, revoked, and then refused."""

    @override
    def _round(self, http: httpx.Client, number: int) -> bool:
        self._stop.wait(10 * PAUSE_SECONDS)
        body = {"name": f"key {number}", "scopes": ["read"], "environments": [self._told.environment]}
        made = self._until(201, lambda: http.post("/v1/admin/keys", json=body))
        if made is None:
            return False
        path = self._path("users/first-u1/rewards")
        question = {"options": [{"item": "i1"}]}
        with client_for(self._url, made.json()["secret"]) as holder:
            for _ in range(10):
                if self._until(200, lambda: holder.post(path, json=question)) is None:
                    return False
            gone = f"/v1/admin/keys/{made.json()['id']}"
            if tried(lambda: http.delete(gone), self._told, 200, 204) is None:
                return False
            # Both processes have heard of it within moments.
            self._stop.wait(1.0)
            with suppress(httpx.TransportError):
                refused = holder.post(path, json=question)
                if refused.status_code != 401:
                    self._told.wrong.append(f"a revoked key is answered by {refused.status_code}")
        return True


def mixed(url: str, told: Told, seed: int) -> list[Client]:
    """One of each, in the environment of `told` and in one of their own for the MDP."""
    coaching = Told(f"{told.environment}-coaching", wrong=told.wrong, late=told.late)
    with client_for(url) as http:
        http.put(f"/v1/environments/{coaching.environment}", json=COACHING).raise_for_status()
    return [
        Ranker(url, told, "ranker", seed=seed),
        Trainee(url, coaching, "trainee", seed=seed, rounds=TRAINEE_ROUNDS),
        Forgotten(url, told, "forgotten", seed=seed),
        KeyHolder(url, told, "keys", seed=seed),
    ]

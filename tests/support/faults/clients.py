"""Clients under whom things break: they send again what was not acknowledged, and remember what they were told."""

import json
import random
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Self

import httpx
from typing_extensions import override

from tests.support.api import Json, client_for

N_ITEMS = 24
ITEM_DIM = 4
PREFERENCES_A_USER = 25
"""Then a client goes on with a new user."""

RETRY_SECONDS = 0.1
PATIENCE_SECONDS = 20.0
"""How long a client waits for an answer: longer than the service may take to say that it has none."""

HONEST = {429, 503}
"""What may be answered when there is no answer, with a problem document."""


@dataclass(frozen=True, slots=True)
class Answer:
    user: str
    version: int
    feedback_seen: int
    items: tuple[str, ...]
    rewards: tuple[float, ...]


@dataclass
class Told:
    """What the clients of one environment have sent and been told, together."""

    environment: str
    sent: dict[str, str] = field(default_factory=dict)
    """Ids of preferences, and whose they are."""
    acknowledged: set[str] = field(default_factory=set)
    answers: list[Answer] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    """Answers that nobody should ever get, in words."""
    refused: int = 0
    """Honest answers that there is none now."""
    unanswered: int = 0
    """Connections that were refused or reset."""
    late: list[str] = field(default_factory=list)
    """No answer at all in time: what was asked for."""


class Client(ABC):
    """One thread that does the same again and again until it is stopped."""

    def __init__(self, url: str, told: Told, name: str, *, seed: int, rounds: int | None = None) -> None:
        self._url = url
        self._told = told
        self.name = name
        self._rng = random.Random(seed)
        self._different = rounds
        """So many rounds are new; then it says all of it again, with the same ids, and nothing more is stored."""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name)
        self.rounds: list[tuple[float, float]] = []
        """When a round that was acknowledged and answered began, and when it was over."""

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()

    def join(self) -> None:
        self._thread.join()

    def good_since(self, moment: float) -> bool:
        return bool(self.rounds) and self.rounds[-1][0] >= moment

    def first_good_since(self, moment: float) -> float:
        return next(end for begun, end in self.rounds if begun >= moment)

    def _run(self) -> None:
        with client_for(self._url) as http:
            http.timeout = httpx.Timeout(PATIENCE_SECONDS)
            number = 0
            while not self._stop.is_set():
                begun = time.monotonic()
                if not self._round(http, number):
                    continue
                self.rounds.append((begun, time.monotonic()))
                number += 1

    def _turn(self, number: int) -> int:
        return number if self._different is None else number % self._different

    def _two_items(self, what: str) -> list[int]:
        """The same ones for the same preference."""
        return random.Random(f"{self._told.environment} {what}").sample(range(N_ITEMS), 2)

    @abstractmethod
    def _round(self, http: httpx.Client, number: int) -> bool:
        """Whether it came to a good end."""

    def _until(self, status: int, send: Callable[[], httpx.Response]) -> httpx.Response | None:
        while not self._stop.is_set():
            response = tried(send, self._told, status)
            if response is not None:
                return response
            self._stop.wait(RETRY_SECONDS)
        return None

    def _path(self, rest: str) -> str:
        return f"/v1/environments/{self._told.environment}/{rest}"


class Asker(Client):
    """A preference until it is acknowledged, then a question that must know of it."""

    PAUSE_SECONDS = 0.1

    @override
    def _round(self, http: httpx.Client, number: int) -> bool:
        self._stop.wait(self.PAUSE_SECONDS)
        turn = self._turn(number)
        user, count = f"{self.name}-u{turn // PREFERENCES_A_USER}", turn % PREFERENCES_A_USER + 1
        if turn < number:
            count = PREFERENCES_A_USER
        token = self._say(http, user, f"{self.name}-{turn}")
        return token is not None and self._ask(http, user, count, token)

    def _say(self, http: httpx.Client, user: str, name: str) -> str | None:
        """Until it is acknowledged; None where the client is stopped before."""
        chosen, rejected = self._two_items(name)
        body = {"id": name, "user": user, "chosen": {"item": f"i{chosen}"}, "rejected": {"item": f"i{rejected}"}}
        self._told.sent[name] = user
        response = self._until(201, lambda: http.post(self._path("preferences"), json=body))
        if response is None:
            return None
        answer = response.json()
        if answer["accepted"] + answer["duplicates"] != 1:
            self._told.wrong.append(f"{name} was acknowledged as {answer}")
        self._told.acknowledged.add(name)
        return response.headers["consistency-token"]

    def _ask(self, http: httpx.Client, user: str, count: int, token: str) -> bool:
        items = tuple(f"i{one}" for one in self._rng.sample(range(N_ITEMS), 3))
        body = {"options": [{"item": one} for one in items]}
        headers = {"Consistency-Token": token}
        path = self._path(f"users/{user}/rewards")
        response = self._until(200, lambda: http.post(path, json=body, headers=headers))
        if response is None:
            return False
        answer = response.json()
        rewards = tuple(one["reward"] for one in answer["rewards"])
        self._told.answers.append(Answer(user, answer["model_version"], answer["feedback_seen"], items, rewards))
        if answer["feedback_seen"] != count:
            self._told.wrong.append(f"{user} had said {count} things, and the answer knew of {answer['feedback_seen']}")
        return True


def tried(send: Callable[[], httpx.Response], told: Told, *good: int) -> httpx.Response | None:
    """A good answer, or None after noting what came instead."""
    try:
        response = send()
    except httpx.TimeoutException as error:
        told.late.append(f"no answer in time: {type(error).__name__} from {error.request.url.path}")
        return None
    except httpx.TransportError:
        told.unanswered += 1
        return None
    if response.status_code in good:
        return response
    if response.status_code in HONEST and is_problem(response):
        told.refused += 1
    else:
        told.wrong.append(f"{response.request.url.path}: {response.status_code} {response.text[:300]}")
    return None


def is_problem(response: httpx.Response) -> bool:
    if response.headers.get("content-type") != "application/problem+json" or "retry-after" not in response.headers:
        return False
    document: Json = response.json()
    return document["status"] == response.status_code and bool(document["code"]) and bool(document["detail"])


class Importer(Client):
    """Files, each until it is acknowledged as a whole."""

    LINES = 20
    PAUSE_SECONDS = 0.5

    @override
    def _round(self, http: httpx.Client, number: int) -> bool:
        lines = [self._line(self._turn(number), line) for line in range(self.LINES)]
        content = "\n".join(json.dumps(line) for line in lines)
        self._told.sent.update({line["id"]: line["user"] for line in lines})
        response = self._until(200, lambda: self._send(http, content))
        if response is None:
            return False
        answer = response.json()
        if answer["accepted"] + answer["duplicates"] != self.LINES:
            self._told.wrong.append(f"an import of {self.LINES} lines was acknowledged as {answer}")
        self._told.acknowledged.update(line["id"] for line in lines)
        self._stop.wait(self.PAUSE_SECONDS)
        return True

    def _send(self, http: httpx.Client, content: str) -> httpx.Response:
        headers = {"Content-Type": "application/x-ndjson"}
        return http.post(self._path("preferences/import"), content=content, headers=headers)

    def _line(self, number: int, line: int) -> dict[str, Any]:
        name = f"{self.name}-{number}-{line}"
        chosen, rejected = self._two_items(name)
        return {
            "id": name,
            "user": f"{self.name}-u{number // 10}-{line % 4}",
            "chosen": {"item": f"i{chosen}"},
            "rejected": {"item": f"i{rejected}"},
        }


class Refitter(Client):
    """One refit after the other, so that models are published all the while."""

    PAUSE_SECONDS = 0.3

    @override
    def _round(self, http: httpx.Client, number: int) -> bool:
        self._stop.wait(self.PAUSE_SECONDS)
        path = f"/v1/admin/environments/{self._told.environment}/retrain"
        asked = self._until(202, lambda: http.post(path))
        location = "" if asked is None else asked.headers["location"]
        while not self._stop.wait(0.05):
            found = self._until(200, lambda: http.get(location))
            state = "" if found is None else found.json()["state"]
            if state == "succeeded":
                return True
            if state in {"failed", "cancelled"}:
                assert found is not None
                self._told.wrong.append(f"a refit is {state}: {found.json()['error']}")
                return False
        return False


Also = Callable[[str, Told, int], list[Client]]
"""More clients, made once the environment is there: of its address, what they are told, a seed."""


class Crowd:
    """Everybody who uses one environment."""

    def __init__(
        self,
        url: str,
        environment: str,
        *,
        seed: int,
        clients: int = 5,
        also: Also | None = None,
        rounds: tuple[int | None, int | None] = (None, None),
    ) -> None:
        """`rounds`: how many are new, of who asks (a multiple of PREFERENCES_A_USER) and of who sends files."""
        self.told = Told(environment)
        self._url = url
        self._seed = seed
        self._also = also
        self.clients: list[Client] = [
            *(
                Asker(url, self.told, f"c{index}", seed=seed * 100 + index, rounds=rounds[0])
                for index in range(clients)
            ),
            Importer(url, self.told, "import", seed=seed * 100 + 99, rounds=rounds[1]),
        ]
        self.refitter = Refitter(url, self.told, "refits", seed=seed)

    @property
    def by_name(self) -> dict[str, Client]:
        return {one.name: one for one in (*self.clients, self.refitter)}

    def __enter__(self) -> Self:
        with client_for(self._url) as http:
            define(http, self.told)
        if self._also is not None:
            self.clients += self._also(self._url, self.told, self._seed)
        for one in (*self.clients, self.refitter):
            one.start()
        return self

    def __exit__(self, *_: object) -> None:
        for one in (*self.clients, self.refitter):
            one.stop()
        for one in (*self.clients, self.refitter):
            one.join()


def define(http: httpx.Client, told: Told) -> None:
    """The environment, its items, what a few have said, and a first model."""
    path = f"/v1/environments/{told.environment}"
    definition = {"kind": "catalog", "item_dim": ITEM_DIM, "rank": 1, "refit": {"every_seconds": 10**6}}
    http.put(path, json=definition).raise_for_status()
    rng = random.Random(0)
    items: list[Json] = [
        {"id": f"i{n}", "features": [rng.gauss(0, 1) for _ in range(ITEM_DIM)]} for n in range(N_ITEMS)
    ]
    http.put(f"{path}/items", json={"items": items}).raise_for_status()
    said: list[Json] = []
    for n in range(120):
        chosen, rejected = sorted(rng.sample(range(N_ITEMS), 2), key=lambda one: items[one]["features"][n % 2])
        name, user = f"first-{n}", f"first-u{n % 20}"
        told.sent[name] = user
        said.append({"id": name, "user": user, "chosen": {"item": f"i{chosen}"}, "rejected": {"item": f"i{rejected}"}})
    http.post(f"{path}/preferences", json={"preferences": said}).raise_for_status()
    told.acknowledged.update(one["id"] for one in said)
    location = http.post(f"/v1/admin/environments/{told.environment}/retrain").headers["location"]
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with suppress(httpx.TransportError):
            if http.get(location).json()["state"] == "succeeded":
                return
        time.sleep(0.05)
    raise AssertionError("the first refit did not end in time")

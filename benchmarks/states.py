"""Ten thousand states, twenty actions, fifty steps: from the definition to a robust policy, through the real service.

Claims: nothing of the size of states x states is made, so that a process of 10,000 states and 20 actions without
features (200,000 rewards to learn) is defined, learnt from trajectories and planned over HTTP in bounded memory and
time. Data: a drawn process with five successors (or `--successors`), a population whose rewards differ along two
directions, pairs of trajectories under random actions; seeded. No rival: the dense way would need 16 GB for the Gram
matrices alone. A real server and a real worker, each a process of its own, on an embedded database. Prints JSON.

    python benchmarks/states.py [--states 10000] [--users 200] [--comparisons 20] [--rank 1]
"""

import argparse
import json
import platform
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.support.api import ADMIN_KEY, client_for, is_ready
from tests.support.commands import Running, free_port, running_command

Real = NDArray[np.float64]
Int = NDArray[np.int64]
NAME = "states"
BATCH = 200
"""Preferences a request."""
REFIT_SECONDS = 1500.0


class Process:
    """A drawn process and its population."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.rng = np.random.default_rng(0)
        self.S, self.A, self.H, self.N = options.states, options.actions, options.horizon, options.users
        self.following = self.rng.integers(self.S, size=(self.S * self.A, options.successors))
        self.chance = self.rng.dirichlet(np.ones(options.successors), size=self.S * self.A).round(6)
        self.chance[:, 0] += 1.0 - self.chance.sum(axis=1)
        self.Theta_0 = 0.3 * self.rng.normal(size=(self.S, self.A))
        self.B = self.rng.normal(size=(self.S, 2))
        self.W = 0.2 * self.rng.normal(size=(self.N, 2, self.A))

    def definition(self, rank: int | str) -> dict[str, Any]:
        rows = [
            [pair // self.A, pair % self.A, int(after), float(chance)]
            for pair in range(self.S * self.A)
            for after, chance in _merged(self.following[pair], self.chance[pair])
        ]
        return {
            "kind": "mdp", "states": self.S, "actions": self.A, "horizon": self.H, "transitions": rows, "rank": rank,
            "refit": {"every_seconds": 31_536_000, "min_new_preferences": 1_000_000_000},
        }  # fmt: skip

    def said(self, each: int) -> list[dict[str, Any]]:
        user = np.repeat(np.arange(self.N), each)
        sides = [self._walks(len(user)) for _ in range(2)]
        worth = [self._worth(user, *side) for side in sides]
        wins = self.rng.random(len(user)) < expit(worth[0] - worth[1])
        walks = [[np.stack(side, axis=2)[row].tolist() for row in range(len(user))] for side in sides]
        return [
            {"user": f"u{user[row]}", "chosen": {"trajectory": walks[1 - int(win)][row]},
             "rejected": {"trajectory": walks[int(win)][row]}}
            for row, win in enumerate(wins)
        ]  # fmt: skip

    def _walks(self, n: int) -> tuple[Int, Int]:
        states, actions = np.empty((n, self.H), dtype=np.int64), np.empty((n, self.H), dtype=np.int64)
        state = self.rng.integers(self.S, size=n)
        cumulated = self.chance.cumsum(axis=1)
        for step in range(self.H):
            action = self.rng.integers(self.A, size=n)
            states[:, step], actions[:, step] = state, action
            pair = state * self.A + action
            place = (self.rng.random(n)[:, None] > cumulated[pair]).sum(axis=1)
            state = self.following[pair, np.minimum(place, self.following.shape[1] - 1)]
        return states, actions

    def _worth(self, user: Int, states: Int, actions: Int) -> Real:
        total = self.Theta_0[states, actions].sum(axis=1)
        for step in range(self.H):
            total += np.einsum("nk,nk->n", self.B[states[:, step]], self.W[user, :, actions[:, step]])
        return np.asarray(total)


def main() -> None:
    options = _options()
    process = Process(options)
    with tempfile.TemporaryDirectory() as name:
        folder, port = Path(name), free_port()
        settings = {
            "PSHARELORA_ADMIN_KEY": ADMIN_KEY, "PSHARELORA_PORT": str(port), "PSHARELORA_PLAN_SECONDS": "20",
            "PSHARELORA_DATA_DIR": str(folder / "data"),
        }  # fmt: skip
        with running_command(folder, "serve", **settings) as server:
            url = f"http://127.0.0.1:{port}"
            server.wait_until(lambda: is_ready(url))
            with running_command(folder, "worker", **settings) as worker, client_for(url) as api:
                api.timeout = httpx.Timeout(300)
                found = _measured(api, process, options, server, worker)
    machine = {"processor": platform.processor() or platform.machine(), "python": platform.python_version()}
    print(json.dumps({"machine": machine, "size": vars(options), **found}, indent=2))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--states", type=int, default=10_000)
    parser.add_argument("--actions", type=int, default=20)
    parser.add_argument("--horizon", type=int, default=50)
    parser.add_argument("--successors", type=int, default=5)
    parser.add_argument("--users", type=int, default=200)
    parser.add_argument("--comparisons", type=int, default=20, help="of every user")
    parser.add_argument("--rank", default="auto", type=lambda given: given if given == "auto" else int(given))
    return parser.parse_args()


def _measured(
    api: httpx.Client, process: Process, options: argparse.Namespace, server: Running, worker: Running
) -> dict[str, Any]:
    body = json.dumps(process.definition(options.rank)).encode()
    defining = _timed(lambda: api.put(f"/v1/environments/{NAME}", content=body, headers=JSON))[0]
    said = process.said(options.comparisons)
    posting = sum(
        _timed(
            lambda part=said[at : at + BATCH]: api.post(
                f"/v1/environments/{NAME}/preferences", json={"preferences": part}
            )
        )[0]
        for at in range(0, len(said), BATCH)
    )
    refitting, refit = _timed(lambda: _refitted(api))
    first, action = _timed(lambda: api.get(f"/v1/environments/{NAME}/users/u1/actions", params={"state": 0}))
    again = _timed(lambda: api.get(f"/v1/environments/{NAME}/users/u1/actions", params={"state": 0}))[0]
    doubting, doubt = _timed(
        lambda: api.get(
            f"/v1/environments/{NAME}/users/u2/actions", params={"state": 7, "confidence": 0.95, "set": "ellipsoid"}
        )
    )
    plans = [answer.json() for answer in (action, doubt)]
    whole = api.get(f"/v1/environments/{NAME}/users/u1/policy")
    model = api.get(f"/v1/admin/environments/{NAME}/models/1").json()
    return {
        "definition_megabytes": round(len(body) / 1e6, 1),
        "defining_seconds": round(defining, 1),
        "preferences": len(said),
        "posting_seconds": round(posting, 1),
        "refit_seconds": round(refitting, 1),
        "refit_state": refit["state"],
        "rank": model["rank"],
        "first_action_seconds": round(first, 2),
        "next_action_seconds": round(again, 3),
        "ellipsoid_seconds": round(doubting, 2),
        "plans": [{name: plan[name] for name in ("set", "lower", "upper", "gap", "reason")} for plan in plans],
        "policy_status": whole.status_code,
        "policy_detail": whole.json().get("detail"),
        "server_peak_megabytes": _peak(server),
        "worker_peak_megabytes": _peak(worker),
    }


JSON = {"Content-Type": "application/json"}


def _refitted(api: httpx.Client) -> dict[str, Any]:
    where = api.post(f"/v1/admin/environments/{NAME}/retrain").headers["Location"]
    deadline = time.monotonic() + REFIT_SECONDS
    while time.monotonic() < deadline:
        found: dict[str, Any] = api.get(where).json()
        if found["state"] not in {"queued", "running"}:
            return found
        time.sleep(0.5)
    raise TimeoutError(f"the refit took longer than {REFIT_SECONDS:g} s.")


def _timed(call: Any) -> tuple[float, Any]:
    begun = time.perf_counter()
    answer = call()
    if isinstance(answer, httpx.Response) and answer.is_error:
        raise RuntimeError(answer.text)
    return time.perf_counter() - begun, answer


def _merged(following: Int, chance: Real) -> list[tuple[int, float]]:
    """Successors that were drawn twice count once."""
    places, back = np.unique(following, return_inverse=True)
    return list(zip(places.tolist(), np.bincount(back, chance).tolist(), strict=True))


def _peak(running: Running) -> int:
    """Megabytes that a process has taken at most (Linux)."""
    status = Path(f"/proc/{running.child.pid}/status").read_text(encoding="utf-8")
    return int(status.split("VmHWM:")[1].split()[0]) // 1000


if __name__ == "__main__":
    main()

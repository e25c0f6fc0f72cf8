from collections.abc import Iterator

import httpx
import pytest

from tests.support.api import client_for, serving
from tests.support.replies import fitted_replies


@pytest.fixture(scope="session")
def api_url(database_url: str) -> Iterator[str]:
    with serving(database_url) as url:
        yield url


@pytest.fixture(scope="session")
def api(api_url: str) -> Iterator[httpx.Client]:
    """A client with the bootstrap key."""
    with client_for(api_url) as client:
        yield client


@pytest.fixture
def catalog(api: httpx.Client, environment_name: str) -> str:
    """A catalogue of two features with the items a, b and c."""
    assert api.put(f"/v1/environments/{environment_name}", json={"kind": "catalog", "item_dim": 2}).status_code == 201
    items = [{"id": name, "features": [float(index), 1.0]} for index, name in enumerate("abc")]
    assert api.put(f"/v1/environments/{environment_name}/items", json={"items": items}).status_code == 200
    return environment_name


@pytest.fixture
def mdp(api: httpx.Client, environment_name: str) -> str:
    """Two states, two actions, two steps: going leaves a state, staying does not."""
    definition = {
        "kind": "mdp",
        "states": ["home", "away"],
        "actions": ["stay", "go"],
        "horizon": 2,
        "initial": [1.0, 0.0],
        "transitions": [
            ["home", "stay", "home", 1.0],
            ["home", "go", "away", 1.0],
            ["away", "stay", "away", 1.0],
            ["away", "go", "home", 1.0],
        ],
    }
    assert api.put(f"/v1/environments/{environment_name}", json=definition).status_code == 201
    return environment_name


@pytest.fixture(scope="session")
def replies(api: httpx.Client, database_url: str) -> Iterator[str]:
    """A fitted environment of texts."""
    with fitted_replies(api, database_url) as name:
        yield name


@pytest.fixture(scope="session")
def read_key(api: httpx.Client, replies: str) -> str:
    """A key that may read this environment and nothing else."""
    made = api.post("/v1/admin/keys", json={"name": "trainer", "scopes": ["read"], "environments": [replies]})
    secret: str = made.json()["secret"]
    return secret

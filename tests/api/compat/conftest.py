from collections.abc import Iterator

import httpx
import pytest

from tests.support.replies import fitted_replies


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

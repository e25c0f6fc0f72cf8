"""Following a refit that no worker takes."""

import pytest

from app.client import Client
from tests.support.api import ADMIN_KEY, serving

CATALOG = {"kind": "catalog", "item_dim": 2}


def test_a_refit_that_waits_can_be_cancelled(database_url: str, environment_name: str) -> None:
    with serving(database_url) as url, Client(url, key=ADMIN_KEY) as client:
        client.put_environment(environment_name, CATALOG)
        refit = client.retrain(environment_name)
        assert client.cancel_refit(refit["id"])["cancel_requested"]


def test_waiting_ends_with_its_time(database_url: str, environment_name: str) -> None:
    with serving(database_url) as url, Client(url, key=ADMIN_KEY) as client:
        client.put_environment(environment_name, CATALOG)
        refit = client.retrain(environment_name)["id"]
        with pytest.raises(TimeoutError, match="had not ended"):
            client.wait_for_refit(refit, timeout_seconds=0.3)
        client.cancel_refit(refit)

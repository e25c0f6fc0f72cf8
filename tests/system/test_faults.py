"""A few faults, once each, on real processes under load; `benchmarks/faults.py` tries all of them again and again."""

import random
from pathlib import Path

import pytest

from tests.support.faults.installation import Installation
from tests.support.faults.kinds import (
    Fault,
    kill_a_backend,
    kill_all_api_processes,
)
from tests.support.faults.trials import tried


@pytest.mark.slow
def test_nothing_is_lost_doubled_or_wrong_and_all_recovers_by_itself(tmp_path: Path) -> None:
    deeds = [kill_a_backend, kill_all_api_processes]
    coming = iter(deeds)

    def do_next(installation: Installation, rng: random.Random) -> None:
        next(coming)(installation, rng)

    fault = Fault("several", "one after the other", do_next, len(deeds), kills_api=True)
    with Installation(tmp_path, data=tmp_path / "data").running() as installation:
        found = tried(installation, fault, len(deeds), seed=1, clients=2, patience_seconds=400)
    assert found.is_good, found.complaints()
    assert found.verdict.acknowledged > 125
    assert found.verdict.checked > 10
    assert found.verdict.versions > 1
    assert found.refused + found.unanswered > 0, "the faults were not noticed"

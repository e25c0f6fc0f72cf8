"""Counts of several processes, against prometheus_client's own and against what each process was told to count."""

import multiprocessing
import os
import signal
from collections.abc import Sequence
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from app.observability.tally import Counter, Distribution, Gauge, Tally

BUCKETS = (1.0, 2.5, 10.0)


def tally(folder: Path | None = None) -> tuple[Tally, Counter, Distribution]:
    said = Counter("said", "Said.", ["word"])
    took = Distribution("took", "Took.", buckets=BUCKETS)
    return Tally([said, took, Gauge("here", "Here.", lambda: 1.0)], folder), said, took


def samples(text: bytes) -> dict[tuple[str, str], float]:
    return {
        (sample.name, "".join(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


@given(st.lists(st.one_of(st.sampled_from(BUCKETS), st.floats(-5, 50))))
@settings(max_examples=50)
def test_buckets_are_prometheus_own(values: Sequence[float]) -> None:
    registry = CollectorRegistry()
    theirs = Histogram("took", "Took.", buckets=BUCKETS, registry=registry)
    ours, _, took = tally()
    for value in values:
        theirs.observe(value)
        took.observe(value)
    found = {key: value for key, value in samples(ours.render()).items() if key[0].startswith("took")}
    expected = samples(generate_latest(registry))
    del expected["took_created", ""]
    assert found == expected


def count(folder: Path, word: str, times: int, written: "multiprocessing.synchronize.Event", *, stay: bool) -> None:
    own, said, took = tally(folder)
    for _ in range(times):
        said.add((word,))
        took.observe(2.0)
    own.write()
    written.set()
    if stay:
        signal.pause()


def test_any_process_tells_for_all_and_the_dead_are_not_forgotten(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    written = [spawn.Event() for _ in range(3)]
    arguments = [("a", 3, True), ("a", 4, False), ("b", 5, True)]
    processes = [
        spawn.Process(target=count, args=(tmp_path, word, times, event), kwargs={"stay": stay})
        for (word, times, stay), event in zip(arguments, written, strict=True)
    ]
    for process, event in zip(processes, written, strict=True):
        process.start()
        assert event.wait(60)
    processes[1].join()
    own, said, _ = tally(tmp_path)
    said.add(("a",), 10)

    def told() -> dict[tuple[str, str], float]:
        return samples(own.render())

    totals = {("said_total", "a"): 17.0, ("said_total", "b"): 5.0, ("took_count", ""): 12.0, ("took_sum", ""): 24.0}
    assert told().items() >= {**totals, ("here", ""): 3.0}.items()
    os.kill(processes[2].pid or 0, signal.SIGKILL)
    processes[2].join()
    assert told().items() >= {**totals, ("here", ""): 2.0}.items()
    processes[0].kill()
    processes[0].join()
    assert told().items() >= {**totals, ("here", ""): 1.0}.items()
    # Files of the dead are cleaned up, and whoever comes after them adds to what they counted.
    assert {path.name for path in tmp_path.iterdir()} == {"gone.json", "lock", f"{os.getpid()}.json"}
    again, said, _ = tally(tmp_path)
    said.add(("b",))
    assert samples(again.render()).items() >= {**totals, ("said_total", "b"): 6.0, ("here", ""): 1.0}.items()


def test_a_folder_that_is_gone_costs_no_answer(tmp_path: Path) -> None:
    own, said, _ = tally(tmp_path / "deep" / "folder")
    (tmp_path / "deep" / "folder" / "lock").unlink()
    (tmp_path / "deep" / "folder").rmdir()
    said.add(("a",), 2)
    assert samples(own.render())["said_total", "a"] == 2.0

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.evaluation import FEW_SHOT_SIZES, METHODS, Dataset, Part, StudyReport, evaluate_dataset, read_dataset
from app.evaluation.dataset import Real
from app.evaluation.study import few_shot_scores
from tests.support.datasets import write_readable_folder, write_reference_folder


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> StudyReport:
    folder = write_reference_folder(tmp_path_factory.mktemp("drawn"), n_users=40, per_user=48)
    return evaluate_dataset(read_dataset(folder), rank=1)


def test_every_method_reports_what_the_contract_names(report: StudyReport) -> None:
    body = report.as_dict()
    assert body["dataset"] == "drawn"
    assert tuple(body["methods"]) == METHODS
    for method in body["methods"].values():
        assert {"accuracy", "log_loss", "ece", "fit_seconds", "rank", "few_shot"} <= method.keys()
        assert list(method["few_shot"]) == [str(size) for size in FEW_SHOT_SIZES]
        for few in method["few_shot"].values():
            assert {"accuracy", "log_loss"} <= few.keys()
        assert 0 <= method["accuracy"] <= 1
        assert method["fit_seconds"] >= 0
        assert method["n"] == report.split["comparisons"]["test"]
    assert [m["rank"] for m in body["methods"].values()] == [0, 4, 1, 1]


def test_the_shared_model_beats_the_global_one_where_people_differ(report: StudyReport) -> None:
    losses = {method.method: method.score.log_loss for method in report.methods}
    assert losses["evidence"] < losses["global"] - 0.05
    versus = next(m.versus_global for m in report.methods if m.method == "evidence")
    assert versus is not None
    assert versus.gain == pytest.approx(losses["global"] - losses["evidence"])
    assert versus.users_better > versus.users_worse


def test_more_comparisons_help_a_new_user_but_not_the_global_model(report: StudyReport) -> None:
    few_shot = {method.method: method.few_shot for method in report.methods}
    assert few_shot["evidence"][32].log_loss < few_shot["evidence"][0].log_loss - 0.05
    assert len({score.log_loss for score in few_shot["global"].values()}) == 1


def test_the_same_seed_gives_the_same_numbers(tmp_path: Path) -> None:
    dataset = read_dataset(write_reference_folder(tmp_path))
    first, second = (evaluate_dataset(dataset, rank=1, seed=3, methods=("global", "evidence")) for _ in range(2))
    for one, other in zip(first.methods, second.methods, strict=True):
        assert one.score == other.score
        assert one.few_shot == other.few_shot


def test_contexts_and_folds_are_used_where_a_set_has_them(tmp_path: Path) -> None:
    dataset = read_dataset(write_reference_folder(tmp_path, n_contexts=6, fold=True))
    report = evaluate_dataset(dataset, rank=1)
    assert report.counts["contexts"] == 6
    assert report.split["validation"] == "the folder's fold"
    assert all(np.isfinite(method.score.log_loss) for method in report.methods)


def test_a_readable_folder_says_how_its_split_was_derived(tmp_path: Path) -> None:
    report = evaluate_dataset(read_dataset(write_readable_folder(tmp_path)), rank=1, methods=("global", "per_user"))
    assert "quarter" in report.split["rule"]
    assert sum(report.split["comparisons"].values()) == 320


def test_a_set_without_unseen_users_has_no_few_shot(tmp_path: Path) -> None:
    dataset = read_dataset(write_reference_folder(tmp_path))
    seen = dataset.take(np.flatnonzero(np.isin(dataset.split, [Part.LEARN, Part.TEST])))
    report = evaluate_dataset(seen, methods=("global", "per_user"))
    assert all(method.few_shot == {} for method in report.methods)


def test_progress_names_each_method_in_turn(tmp_path: Path) -> None:
    told: list[tuple[str, str, float]] = []
    dataset = read_dataset(write_reference_folder(tmp_path))
    evaluate_dataset(dataset, rank=1, progress=lambda *step: told.append(step))
    assert list(dict.fromkeys(method for method, _, _ in told)) == list(METHODS)
    assert all(0 <= done <= 1 for _, _, done in told)


def test_an_unknown_method_is_refused(tmp_path: Path) -> None:
    dataset = read_dataset(write_reference_folder(tmp_path))
    with pytest.raises(ValueError, match="no method is called 'guess'"):
        evaluate_dataset(dataset, methods=("guess",))


@dataclass
class Recorder:
    """A method that only notes what it was shown."""

    rank: int = 0
    shown: list[Any] = field(default_factory=list)

    def predict(self, data: Dataset) -> Real:
        return np.full(len(data), 0.5)

    def predict_after(self, adapt: Dataset, test: Dataset) -> Real:
        self.shown.append((adapt.chosen.tolist(), adapt.rejected.tolist(), set(adapt.user.tolist()), len(test)))
        return self.predict(test)


def test_few_shot_shows_each_new_user_the_first_comparisons_in_order(tmp_path: Path) -> None:
    dataset = read_dataset(write_reference_folder(tmp_path, n_users=4, per_user=60))
    (newcomer,) = np.unique(dataset.user[dataset.split == Part.ADAPT])
    adapt = dataset.part(Part.ADAPT).renumbered(np.array([newcomer]))
    test = dataset.part(Part.UNSEEN_TEST).renumbered(np.array([newcomer]))
    method = Recorder()
    few_shot_scores(method, {3: (adapt, test)}, progress=lambda _done: None)
    own = np.flatnonzero((dataset.user == newcomer) & (dataset.split == Part.ADAPT))
    for size, (chosen, rejected, users, n_test) in zip(FEW_SHOT_SIZES, method.shown, strict=True):
        assert chosen == dataset.chosen[own[:size]].tolist()
        assert rejected == dataset.rejected[own[:size]].tolist()
        assert users <= {0}
        assert n_test == 20

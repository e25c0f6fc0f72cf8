from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from app.evaluation import (
    FEW_SHOT_SIZES,
    METHODS,
    PAPER_METHODS,
    Dataset,
    Part,
    StudyReport,
    evaluate_dataset,
    read_dataset,
)
from app.evaluation.dataset import Real
from app.evaluation.study import Newcomers, SharedModel, few_shot_scores
from app.learning import fit, fold_in
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
    assert [m["rank"] for m in body["methods"].values()] == [0, 4, 0, 1, 1]


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
    shown: list[Dataset] = field(default_factory=list)

    def predict(self, data: Dataset) -> Real:
        return np.full(len(data), 0.5)

    def predict_after(self, adapt: Dataset, test: Dataset, *, n_users: int) -> Real:
        assert n_users == 6
        self.shown.append(adapt)
        return self.predict(test)


def test_few_shot_shows_each_new_user_the_first_comparisons_in_order(tmp_path: Path) -> None:
    dataset = read_dataset(write_reference_folder(tmp_path, per_user=60))
    mixed = dataset.take(np.random.default_rng(0).permutation(len(dataset)))
    method = Recorder()
    scores = few_shot_scores(method, Newcomers.of(mixed), progress=lambda _done: None)
    assert {score.n for score in scores.values()} == {6 * 20}
    for size, shown in zip(FEW_SHOT_SIZES, method.shown, strict=True):
        for index, user in enumerate(np.unique(mixed.user[mixed.split == Part.ADAPT])):
            own = np.flatnonzero((mixed.user == user) & (mixed.split == Part.ADAPT))[:size]
            np.testing.assert_array_equal(shown.chosen[shown.user == index], mixed.chosen[own])
            np.testing.assert_array_equal(shown.rejected[shown.user == index], mixed.rejected[own])


def test_meeting_many_new_users_at_once_is_meeting_each_alone(tmp_path: Path) -> None:
    dataset = read_dataset(write_reference_folder(tmp_path))
    comparisons = dataset.part(Part.LEARN).comparisons(24)
    method = SharedModel(model=fit(comparisons, rank=1, rng=np.random.default_rng(0)), n_users=24)
    newcomers = Newcomers.of(dataset)
    together = method.predict_after(newcomers.first(8), newcomers.test, n_users=6)
    for user in range(6):
        adapter = fold_in(method.model, newcomers.first(8).renumbered(np.array([user])).comparisons(1))
        alone = method.model.predict(newcomers.test.renumbered(np.array([user])).comparisons(1), [adapter])
        np.testing.assert_allclose(together[newcomers.test.user == user], alone, atol=1e-6)


def test_several_seeds_tell_their_spread(tmp_path: Path) -> None:
    dataset = read_dataset(write_reference_folder(tmp_path, n_users=30, per_user=30))
    methods = ("global", "evidence")
    report = evaluate_dataset(dataset, rank=1, seeds=3, methods=methods)
    alone = [evaluate_dataset(dataset, rank=1, seed=seed, methods=methods) for seed in range(3)]
    for number, method in enumerate(report.methods):
        losses = [one.methods[number].score.log_loss for one in alone]
        found = method.spread["log_loss"]
        assert found.values == pytest.approx(losses)
        assert (found.mean, found.std) == pytest.approx((np.mean(losses), np.std(losses, ddof=1)))
    assert report.as_dict()["methods"]["evidence"]["spread"]["few_shot_32_log_loss"]["mean"] > 0


def test_the_papers_axis_is_measured(tmp_path: Path) -> None:
    dataset = read_dataset(write_reference_folder(tmp_path, n_users=40, per_user=48))
    report = evaluate_dataset(dataset, rank=1, methods=PAPER_METHODS)
    losses = {method.method: method.score.log_loss for method in report.methods}
    for start in ("SI", "G", "WU"):
        assert losses["evidence"] < losses[start] < losses["global"]

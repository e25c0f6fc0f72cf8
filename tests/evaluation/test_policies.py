import numpy as np
import pytest

from app.domain.doubt import SetKind
from app.evaluation import PolicyStudy, study_policies
from app.evaluation.policies import HOUSE_SHARE, house_policy
from app.evaluation.truth import draw_mdp


@pytest.fixture(scope="module")
def study() -> PolicyStudy:
    levels: tuple[tuple[SetKind, float], ...] = (
        ("credible", 0.5),
        ("credible", 0.9),
        ("ellipsoid", 0.8),
        ("ellipsoid", 0.95),
    )
    return study_policies(users=80, judged=40, worlds=2, rank=1, ladder=(5,), levels=levels, seed=2)


def test_with_few_comparisons_robust_policies_are_rarely_worse_than_the_reference(study: PolicyStudy) -> None:
    (point,) = study.points
    assert point.judged == 80
    greedy = point.policies["greedy"]
    for level in (0.8, 0.95):
        robust = point.policies[f"ellipsoid {level}"]
        assert robust.worse_than_reference <= 1 - level
        assert robust.worse_than_reference < greedy.worse_than_reference - 0.1
        # While data is scarce, caution does not fall below the reference.
        assert robust.mean_regret <= point.policies["reference"].mean_regret + 1e-9
    assert point.policies["reference"].worse_than_reference == 0


def test_promises_shrink_with_doubt_and_nominal_stands_beside_robust(study: PolicyStudy) -> None:
    (point,) = study.points
    names = ("greedy", "credible 0.9", "ellipsoid 0.8", "ellipsoid 0.95")
    found = [point.policies[name] for name in names]
    assert all(one.lower <= one.nominal + 1e-9 for one in found)
    assert [one.lower for one in found] == sorted((one.lower for one in found), reverse=True)
    assert [one.beta for one in found] == sorted(one.beta for one in found)


def test_without_doubt_the_robust_policy_is_the_greedy_one(study: PolicyStudy) -> None:
    (point,) = study.points
    greedy, trusting = point.policies["greedy"], point.policies["credible 0.5"]
    assert trusting.beta == 0
    assert trusting.mean_regret == pytest.approx(greedy.mean_regret)
    assert trusting.nominal == pytest.approx(greedy.nominal)


def test_the_house_does_what_is_best_for_the_average_user_and_tries_the_rest() -> None:
    world = draw_mdp(np.random.default_rng(0), n_users=6, per_user=2, rank=1)
    policy = house_policy(world)
    np.testing.assert_allclose(policy.sum(axis=2), 1)
    assert policy.min() == pytest.approx((1 - HOUSE_SHARE) / 3)
    # At the last step nothing is left but the reward itself.
    np.testing.assert_array_equal(policy[-1].argmax(axis=1), world.truth.Theta.mean(axis=0).argmax(axis=1))

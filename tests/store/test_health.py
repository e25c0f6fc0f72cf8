from dataclasses import replace

from app.store.health import EnvironmentHealth


def test_a_lift_is_over_the_model_for_everybody_and_nothing_without_it() -> None:
    health = EnvironmentHealth(
        name="shop",
        preferences=10,
        new_preferences=0,
        failed=False,
        version=1,
        age_seconds=5.0,
        accuracy={"new": 0.75, "global": 0.5, "per_user": 0.625},
        log_loss={},
        calibration_error=None,
        coverage=None,
        distance_to_previous=None,
    )
    assert health.lift == 0.25
    assert replace(health, accuracy={"new": 0.75}).lift is None

"""A reward function for verl: `custom_reward_function.path` is this file, its `name` is `compute_score`."""

from app.client.training import compute_score

__all__ = ["compute_score"]

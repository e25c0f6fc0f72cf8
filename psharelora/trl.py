"""A reward function for TRL's trainers."""

from app.client.training import TrlReward, trl_reward

__all__ = ["TrlReward", "trl_reward"]

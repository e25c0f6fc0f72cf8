"""Tabular decision processes and certified robust policies."""

from app.policy import *  # noqa: F403 - the same public face under the public name

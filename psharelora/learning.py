"""The method: comparisons in, a model out."""

from app.learning import *  # noqa: F403 - the same public face under the public name

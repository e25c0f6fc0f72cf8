"""What the core refuses: its own subclasses of ValueError, since it may import no other package of the project."""


class InvalidComparisonsError(ValueError):
    """A comparison, or one of its tables, cannot be used; the message names the first offender."""


class FeatureShapeError(ValueError):
    """Features handed to a fitted model have another width than those it was fitted on."""

"""What is raised where there is no exact difference."""

__all__ = ["NotComparableError"]


class NotComparableError(ValueError):
    """What a function does has no exact difference; the message says why.

    An operation has no rule, none for its arguments, or does something else at the baseline.
    """

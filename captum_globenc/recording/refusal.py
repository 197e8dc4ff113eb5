"""What is raised where a pass cannot be recorded as what it was."""

__all__ = ["RecordingError"]


class RecordingError(RuntimeError):
    """What ran cannot be decomposed, whatever the text; the message says why.

    The encoder never ran, or more than once, what attends was not seen, or parts do not add up to what
    was written.
    """

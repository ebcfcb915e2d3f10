"""The error of this package that a command reports in one line."""


class DataError(ValueError):
    """Images, splits or episodes that cannot be had as asked for; the message says what was required, found, and can be done."""

"""The one exception that a trainer shows as a single line instead of a traceback."""


class TrainingError(Exception):
    """Something the user can mend: the message says what is wrong and what to do about it."""

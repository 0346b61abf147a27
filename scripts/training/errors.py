"""The one exception that a trainer shows as a single line instead of a traceback."""


class TrainingError(Exception):
    """Something the user can mend: the message says what is wrong and what to do about it.

    is_own: only this rank has met it, though the ranks have not met yet; it must say so itself.
    """

    is_own = False

    def __init__(self, message: str):
        # What a DataLoader worker raises, PyTorch raises again with the worker's whole traceback
        # for a message; its last line is "training.errors.TrainingError: <the message>".
        super().__init__(message.rpartition(f"{type(self).__name__}: ")[2].strip())

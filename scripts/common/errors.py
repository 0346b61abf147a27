"""The one exception that commands show as a single line instead of a traceback."""


class UserError(Exception):
    """Something the user can fix: one line that names the file, says why, and the fix."""

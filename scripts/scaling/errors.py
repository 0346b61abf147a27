"""The one exception that the analysis commands show as a single line."""


class ScalingError(Exception):
    """A file or folder that cannot be used: the message names it, says why, and the fix."""

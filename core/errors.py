"""The one exception meant for people: its message is shown as it is, on one line, and the exit code is 2."""


class MienError(Exception):
    """Something the user can act on. The message names the file, key or recording and the next step."""

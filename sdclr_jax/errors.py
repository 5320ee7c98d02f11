"""The errors that the command line tells in one sentence, without a traceback."""


class UserError(ValueError):
    """Bad input: the message is one sentence that names the field or file and the remedy. Exit status 2."""


class Diverged(RuntimeError):
    """The loss is no longer a number: the message names step and branch. Exit status 1."""

"""The one kind of error that is the user's to mend."""


class UserError(ValueError):
    """Bad input: the message is one sentence that names the field or file and the remedy.

    The command line prints it without a traceback and exits with status 2.
    """

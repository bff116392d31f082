"""The one exception that a user's mistake raises."""


class InputError(ValueError):
    """A user's mistake, said in one sentence that names the file or argument and what was expected.

    The command line prints the sentence and exits with status 2; nothing is lost and no traceback is shown.
    """

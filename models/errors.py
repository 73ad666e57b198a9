"""The error that a person caused and can mend."""


class UserError(Exception):
    """Bad input. Its text is one clear line: what is wrong, where, and what to do.

    The command line prints the text without a traceback and exits with code 2.
    """

"""Errors that a person can mend."""


class UserError(Exception):
    """Bad input. Its text is one clear line: what is wrong, where, and what to do.

    The command line prints the text without a traceback and exits with code 2.
    """


class SandboxError(UserError):
    """A layer of the sandbox that was there when the campaign asked could not be put on."""

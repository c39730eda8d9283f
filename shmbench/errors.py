"""Every error that shmbench raises on purpose: what failed, why, and the remedy."""


class ShmbenchError(Exception):
    """Base of all errors of this package.

    Args:
        message: what failed and why, one line.
        remedy: what the user can do about it, one line; None where nothing is known.
    """

    def __init__(self, message: str, remedy: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message}; {self.remedy}" if self.remedy else self.message


class Unavailable(ShmbenchError):
    """This machine (or this installation) can't do what was asked. Probes return it."""


class UsageError(ShmbenchError):
    """The request itself is wrong: an unknown kind, an impossible size. Exit code 2."""


class PeerFailed(ShmbenchError):
    """A rank died, was killed, or raised; the message names the rank and how it ended."""


class CaseTimeout(ShmbenchError):
    """A case did not end within its time-out; the ranks were killed."""


class ValidationFailed(ShmbenchError):
    """Bytes that arrived are not the bytes that were sent, or a placement did not hold."""


class ResultFormatError(ShmbenchError):
    """A result file can't be read: not JSON, another schema, or a key is missing."""

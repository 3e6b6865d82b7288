"""What the checker raises where there is nothing to say of a certificate. It imports nothing; all are ValueErrors.

A certificate that proves less than it claims, or nothing, is no error: it is invalid, with a reason.
"""


class CheckerError(ValueError):
    """Base of what callers of the checker meet."""


class FileError(CheckerError):
    """There is no such file, or it is damaged, too large, or holds something else."""


class ExactError(CheckerError):
    """Rational arithmetic is not installed, too slow here, or does not know what a certificate is about."""

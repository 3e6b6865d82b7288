"""Exceptions that users meet: each says what was wrong, where, and what to do next."""


class VerifierError(Exception):
    """Base of every error that this package raises on purpose."""


class InputError(VerifierError, ValueError):
    """An argument is unusable: wrong shape, NaN, negative eps, a label out of range, ..."""


class ModelError(VerifierError, ValueError):
    """The model cannot be verified as it is (training mode, NaN weights, graph and model disagree, ...)."""


class UnsupportedError(ModelError):
    """The model uses an operator, or a use of one, that has no relaxation here."""


class CertificateError(VerifierError):
    """No certificate can be written: the message says why, and what would help."""


class RejectedError(CertificateError):
    """There is evidence, and the checker of certificates accepts nothing that can be made of it."""


class StoreError(VerifierError):
    """A result store cannot be opened, read or written."""


class InternalError(VerifierError, AssertionError):
    """Something that must hold by construction does not: a bug of ours, never a verdict."""

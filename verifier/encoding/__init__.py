"""Networks as linear and integer programs. Import it only where one is needed: it loads scipy."""

from verifier.encoding.activation import EncodingError
from verifier.encoding.builder import ProgramBuilder
from verifier.encoding.encoder import Encoder, Encoding, ProgramSource
from verifier.encoding.hull import Hull, Treatment
from verifier.encoding.value import ColumnForm

__all__ = ["ProgramBuilder", "Encoder", "Encoding", "EncodingError", "Hull", "ProgramSource", "Treatment", "ColumnForm"]

"""Networks as linear and integer programs. Import it only where one is needed: it loads scipy."""

from verifier.encoding.activation import EncodingError
from verifier.encoding.encoder import Encoder, Encoding, ProgramSource

__all__ = ["Encoder", "Encoding", "EncodingError", "ProgramSource"]

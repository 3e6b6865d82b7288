"""Networks as linear and integer programs. Import it only where one is needed: it loads scipy."""

from verifier.encoding.activation import EncodingError
from verifier.encoding.builder import Builder
from verifier.encoding.encoder import Encoder, Encoding, Source
from verifier.encoding.hull import Hull, Treatment
from verifier.encoding.value import Value

__all__ = ["Builder", "Encoder", "Encoding", "EncodingError", "Hull", "Source", "Treatment", "Value"]

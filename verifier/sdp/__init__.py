"""The semidefinite certificate of Raghunathan et al. (2018) for networks with one activation layer."""

from verifier.sdp.bounds import SdpBounds
from verifier.sdp.certificate import SdpCertificate
from verifier.sdp.spectrum import norm_bound
from verifier.sdp.two_layer import TwoLayer, is_two_layer

__all__ = ["SdpBounds", "SdpCertificate", "TwoLayer", "is_two_layer", "norm_bound"]

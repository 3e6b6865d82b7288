"""Evidence of a VERIFIED: what the verifier keeps of it, and how a certificate is made of that.

Reading certificates and checking them is verifier/checker's.
"""

from verifier.certificate.certificate import Certificate, SetCertificate
from verifier.certificate.proof import ExampleProof, SetProofs, StageRun

__all__ = ["Certificate", "ExampleProof", "SetCertificate", "SetProofs", "StageRun"]

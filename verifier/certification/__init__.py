"""Certify a whole test set: a durable store of one row per example, and the report on it."""

from verifier.certification.certify import Interrupted, certify
from verifier.certification.curve import Sweep
from verifier.certification.example import ExampleOutcome, ExampleRow
from verifier.certification.identity import RunIdentity
from verifier.certification.report import Report
from verifier.certification.store import Store

__all__ = ["certify", "ExampleRow", "Interrupted", "ExampleOutcome", "Report", "RunIdentity", "Store", "Sweep"]

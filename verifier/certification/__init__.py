"""Certify a whole test set: a durable store of one row per example, and the report on it."""

from verifier.certification.certify import Interrupted, certify
from verifier.certification.example import Example, Outcome, StageTotal
from verifier.certification.report import Report
from verifier.certification.store import RunIdentity, Store

__all__ = ["certify", "Example", "Interrupted", "Outcome", "Report", "RunIdentity", "StageTotal", "Store"]

"""Proofs by cases, on neurons and on inputs, each case closed by a dual bound of our own."""

import verifier.stages  # noqa: F401  first: stages and cases are made of each other's parts

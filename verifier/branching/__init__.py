"""Proofs by cases, on neurons and on inputs, each case closed by a dual bound of our own."""

"""Branching on neurons: a proof by cases, each case closed by a dual bound of our own."""

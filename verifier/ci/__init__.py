"""Answers for machines that build and test: what a command found as one record, as JUnit XML and as JSON.

Light: torch, numpy and rich are loaded by those who bring the answers.
"""

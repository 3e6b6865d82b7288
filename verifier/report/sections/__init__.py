"""The sections of the report: one file for each, found by itself (verifier.report.section)."""

"""Conformance checks are assertions outside of test files: pytest shows their values as it does for its own."""

import pytest

pytest.register_assert_rewrite("verifier.testing", "training.testing")

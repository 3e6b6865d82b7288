"""Conformance checks are assertions outside of test files: pytest shows their values as it does for its own."""

import signal

import pytest

pytest.register_assert_rewrite("verifier.testing", "training.testing")

# shells start what is in the background deaf to Ctrl-C, which the processes that tests start would inherit
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

"""Conformance checks are assertions outside of test files: pytest shows their values as it does for its own."""

import signal
from pathlib import Path

import pytest

pytest.register_assert_rewrite("verifier.testing", "training.testing")

# shells start what is in the background deaf to Ctrl-C, which the processes that tests start would inherit
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(tryfirst=True)
def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Tests of a device need the plugin that makes one before torch is there, which `make test-device` gives."""
    ours = Path(__file__).with_name("device") in (collection_path, collection_path.parent)
    return True if ours and not config.pluginmanager.has_plugin("device.plugin") else None

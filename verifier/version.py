"""The version, in one place for what is imported, what is stored, and what is printed."""

from __future__ import annotations

#: as in pyproject.toml; of an installed copy its metadata may be older than the tree that is run
__version__ = "0.2.0"

"""Whether a file of the user hides a package that comes with this one: `properties.py`, `training/` are common names.

Python looks beside the script first. What it finds there under the name of one of our packages would be imported in its
place, and the error would be about some name that is missing in it.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

#: packages of this distribution beside `verifier`
OWN = ("properties", "solvers", "training")


def refuse_shadows(home: Path) -> None:
    """Check that the packages beside `verifier` are the ones that Python would import. Imports none of them.

    Args:
        home: the folder that holds `verifier`.

    Raises:
        ImportError: another module or package is found in one's place; both are named.
    """
    for name in OWN:
        own = home / name
        found = _found(name) if own.is_dir() else None
        if found is not None and found.resolve() != own.resolve():
            raise ImportError(
                f"{found} hides the package {name!r} that comes with the verifier ({own}): Python finds it first. "
                f"Rename it, or run Python from where it does not come first on sys.path",
                name=name,
                path=str(found),
            )


def _found(name: str) -> Path | None:
    """The file, or the folder of the package, that `import name` would take; None where that cannot be said."""
    try:
        spec = importlib.util.find_spec(name)
    except ValueError:  # in sys.modules already, put there by hand
        return None
    if spec is None:
        return None
    for folder in spec.submodule_search_locations or ():
        return Path(folder)
    return None if spec.origin is None else Path(spec.origin)

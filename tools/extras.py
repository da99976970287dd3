"""Print the requirements of one extra of pyproject.toml, for pip, without the package itself.

python -m tools.extras book
"""

from __future__ import annotations

import sys
import tomllib

from labs.stamp import ROOT


def requirements(extra: str) -> list[str]:
    """Return the requirements of an extra.

    Raises:
        KeyError: When pyproject.toml has no such extra.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return list(project["optional-dependencies"][extra])


if __name__ == "__main__":
    print("\n".join(requirements(sys.argv[1])))

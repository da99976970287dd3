"""Read the data files that ship inside the package, and refuse one that is not as built."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

FOLDER = Path(__file__).with_name("assets")
_MEND = "restore it with `git checkout labs/data/assets`, or reinstall cv-debugged"


class DamagedAssetError(Exception):
    """Report a shipped file that is missing, or whose content is not what was built."""


def read_asset(name: str, digest: str) -> bytes:
    """Return the content of a shipped file.

    Each loader holds the hash of its file, so that new data also changes the loader's source, which
    is what tells that a lesson's outputs are out of date.

    Args:
        name: The name of a file in ``labs/data/assets``.
        digest: Its SHA-256, in hexadecimal.

    Raises:
        DamagedAssetError: When the file is missing or has another hash.
    """
    path = FOLDER / name
    if not path.is_file():
        raise DamagedAssetError(f"asset {name}: expected the file {path}, got none; {_MEND}")
    content = path.read_bytes()
    if (got := sha256(content).hexdigest()) != digest:
        raise DamagedAssetError(
            f"asset {name}: expected SHA-256 {digest}, got {got} ({len(content):,} bytes); {_MEND}"
        )
    return content

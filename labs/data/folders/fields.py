"""Read label files as text, and take from them only what has the expected type."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from labs.data.folders.pictures import shown
from labs.near_miss import did_you_mean

Row = dict[str, Any]
_LARGEST = 1e15  # no pixel and no area is larger; infinity and NaN are not below it either


def read_text(path: Path) -> str:
    """Return the text of a label file, without a byte order mark.

    Raises:
        ValueError: When it is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path}: expected UTF-8, got the byte {error.object[error.start]:#04x} at place "
            f"{error.start}; save the file as UTF-8"
        ) from error


def read_lists(path: Path, wanted: Sequence[str], hint: str) -> dict[str, list[Row]]:
    """Return the lists of objects of a JSON file.

    Args:
        path: The file.
        wanted: Their names; others are left alone.
        hint: What to do when one is missing.

    Raises:
        ValueError: When it is not JSON, or lacks one of the lists.
    """
    try:
        content = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        if str(error).startswith(str(path)):
            raise
        raise ValueError(f"{path}: expected JSON, got {error}; is the file complete?") from error
    if not isinstance(content, dict):
        raise ValueError(
            f"{path}: expected an object with {', '.join(wanted)}, got a "
            f"{type(content).__name__}; {hint}"
        )
    if not set(wanted) <= content.keys():
        keys = shown(", ".join(content)) if len(content) > 20 else ", ".join(content)
        raise ValueError(f"{path}: expected {', '.join(wanted)}, got {keys or 'nothing'}; {hint}")
    for name in wanted:
        if not isinstance(content[name], list):
            raise ValueError(
                f"{path}: expected {name} to be a list, got {shown(content[name])}; {hint}"
            )
        for place, row in enumerate(content[name]):
            if not isinstance(row, dict):
                raise ValueError(
                    f"{path}: expected {name}[{place}] to be an object, got {shown(row)}; {hint}"
                )
    return {name: content[name] for name in wanted}


def identity(row: Row, key: str, where: str) -> int | str:
    """Return an id, which is an integer or a text.

    Raises:
        ValueError: When it is missing, or anything else, such as true or 1.0.
    """
    value = _present(row, key, where)
    if type(value) not in (int, str):
        raise ValueError(f"{where}: expected {key} to be an integer or a text, got {shown(value)}")
    return value


def text(row: Row, key: str, where: str) -> str:
    """Return a text.

    Raises:
        ValueError: When it is missing, or anything else.
    """
    value = _present(row, key, where)
    if not isinstance(value, str):
        raise ValueError(f"{where}: expected {key} to be a text, got {shown(value)}")
    return value


def numbers(row: Row, key: str, count: int, where: str) -> list[float]:
    """Return a list of finite numbers.

    Raises:
        ValueError: When it is missing, has another length, or holds anything else.
    """
    values = _present(row, key, where)
    if not isinstance(values, list) or len(values) != count or not all(map(is_number, values)):
        raise ValueError(
            f"{where}: expected {key} to be {count} finite numbers, got {shown(values)}"
        )
    return values


def is_number(value: Any) -> bool:
    """Tell whether this is a finite number of a plausible size, and not true or false."""
    return type(value) in (int, float) and -_LARGEST < value < _LARGEST


def refuse_twice(ids: Sequence[int | str], what: str, path: Path) -> None:
    """Raise a ``ValueError`` that names the first id that occurs again.

    Raises:
        ValueError: When one occurs again, or integers and texts are mixed.
    """
    seen: set[int | str] = set()
    for value in ids:
        if value in seen:
            raise ValueError(
                f"{path}: expected every {what} once, got {shown(value)} again; were two files "
                "joined? Number them anew"
            )
        seen.add(value)
    if len(set(map(type, ids))) > 1:
        raise ValueError(f"{path}: expected every {what} to be of one type, got integers and texts")


def _present(row: Row, key: str, where: str) -> Any:
    if row.get(key) is None:
        got = "null" if key in row else f"none{did_you_mean(key, row)}"
        raise ValueError(f"{where}: expected {key}, got {got}")
    return row[key]

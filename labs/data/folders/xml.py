"""Parse XML that nobody has checked."""

from __future__ import annotations

from pathlib import Path
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat


class _DocumentTypeError(Exception):
    pass


def parse_xml(path: Path) -> Element:
    """Return the root of an XML file; names lose their namespace.

    A document type is refused before anything in it is read: it can define entities that unfold to
    gigabytes, or that name other files, and no label needs one.

    Raises:
        ValueError: When the file is no XML, or has a document type.
    """
    builder = TreeBuilder()
    parser = expat.ParserCreate()
    parser.buffer_text = True

    def refuse(name: str, *rest: object) -> None:
        raise _DocumentTypeError(name)

    def start(name: str, attributes: dict[str, str]) -> None:
        builder.start(name.rpartition(":")[2], attributes)

    def end(name: str) -> None:
        builder.end(name.rpartition(":")[2])

    parser.StartDoctypeDeclHandler = refuse
    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler = builder.data
    try:
        parser.Parse(path.read_bytes(), True)
    except expat.ExpatError as error:
        raise ValueError(f"{path}: expected a VOC annotation, got {_why(path, error)}") from error
    except _DocumentTypeError as error:
        raise ValueError(
            f"{path}: expected no document type, got <!DOCTYPE {error}>; remove it, with the "
            "entities that it defines"
        ) from None
    except (LookupError, ValueError) as error:  # an encoding that expat does not know
        raise ValueError(
            f"{path}: expected a VOC annotation, got {error}; save the file as UTF-8"
        ) from error
    return builder.close()


def _why(path: Path, error: expat.ExpatError) -> str:
    if path.stat().st_size == 0:
        return "an empty file"
    try:
        path.read_bytes().decode("utf-8")
    except UnicodeDecodeError:
        return f"{error}; it is not UTF-8: save it so, or let its first line declare its encoding"
    return f"{error}; is the file complete, and is & written as &amp; and < as &lt;?"

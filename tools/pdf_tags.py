"""Join the tags of PDFs, which say what is a heading, a list, a table, a picture or a link.

Chromium writes a tree of such elements with each page that it prints; pypdf copies the sheets and
leaves the tree behind. A :class:`TagTree` grows one tree for the joined PDF from those of its
parts. Elements that only group, nine of ten, are left out: what they hold goes to the element
around them. Where that would be a whole page, as for a block of code, they become a paragraph.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

from pypdf import PdfReader, PdfWriter
from pypdf.generic import (
    ArrayObject,
    BooleanObject,
    DictionaryObject,
    NameObject,
    NullObject,
    NumberObject,
    TextStringObject,
)

# Of an element, besides its kind, its place and what it holds.
COPIED = ("/A", "/ActualText", "/Alt", "/Lang")
WHOLE = {"/Document", "/Part", "/Art", "/Sect"}
IN_LINE = {"/NonStruct", "/Code", "/Em", "/Link", "/Span", "/Strong"}


class TagTree:
    """Grow the structure tree of a PDF that is being joined.

    Args:
        writer: Of the joined PDF.
        language: Of the text, such as ``"en"``.
    """

    def __init__(self, writer: PdfWriter, language: str) -> None:
        self._writer = writer
        self._sheets: list[Any] = []
        self._held: list[dict[int, Any]] = []  # of each sheet: the element that holds each content
        self._links: dict[tuple[int, int], Any] = {}  # the element of each annotation, see ``link``
        self._linked: list[Any] = []
        self._names: dict[str, Any] = {}
        self._root = _dictionary(Type=NameObject("/StructTreeRoot"))
        writer._add_object(self._root)
        self._book = self._add("/Document", self._root)
        writer.root_object.update(
            _dictionary(
                Lang=TextStringObject(language),
                MarkInfo=_dictionary(Marked=BooleanObject(True)),
                StructTreeRoot=self._root.indirect_reference,
                ViewerPreferences=_dictionary(DisplayDocTitle=BooleanObject(True)),
            )
        )

    def graft(self, reader: PdfReader, start: int) -> None:
        """Add the elements of a part, whose sheets stand in the joined PDF already.

        Args:
            reader: Of the part. Of one without tags nothing is added.
            start: The number of its first sheet in the joined PDF, from 0. Parts come in order.
        """
        sheets = {}
        for number, page in enumerate(reader.pages, start):
            sheets[page.indirect_reference.idnum] = number  # type: ignore[union-attr]
            joined = self._writer.pages[number]
            joined[NameObject("/StructParents")] = NumberObject(number)
            self._sheets.append(joined.indirect_reference)
            self._held.append({})
        tree = reader.root_object.get("/StructTreeRoot", {})
        for document in _listed(tree.get("/K", [])):
            part = self._add("/Part", self._book, document, start)
            self._fill(part, document, sheets, start)

    def _add(self, kind: str, home: Any, like: Any = None, start: int = 0) -> DictionaryObject:
        """Make an element inside another one, with the properties of one of a part."""
        made = _dictionary(S=NameObject(kind), P=home.indirect_reference, K=ArrayObject())
        at = self._writer._add_object(made)
        home.setdefault(NameObject("/K"), ArrayObject()).append(at)
        for key in (key for key in COPIED if like and key in like):
            made[NameObject(key)] = like[key].clone(self._writer)
        for attributes in _listed(made.get("/A", [])):
            if "/Headers" in attributes:
                names = [_name(start, name) for name in attributes["/Headers"]]
                attributes[NameObject("/Headers")] = ArrayObject(names)
        if like and "/ID" in like:
            name = made[NameObject("/ID")] = _name(start, like["/ID"])
            self._names[name] = at
        return made

    def _fill(self, home: Any, element: Any, sheets: dict[int, int], start: int) -> None:
        """Give an element what one of a part holds."""
        for kid in _listed(element.get("/K", [])):
            if isinstance(kid, int):
                self._hold(home, sheets[element.raw_get("/Pg").idnum], kid)
            elif kid.get("/Type") == "/MCR":
                where = kid if "/Pg" in kid else element
                self._hold(home, sheets[where.raw_get("/Pg").idnum], kid["/MCID"])
            elif kid.get("/Type") == "/OBJR":
                self._links[start, kid.raw_get("/Obj").idnum] = home
            elif kid["/S"] == "/NonStruct":
                block = home["/S"] in WHOLE and _is_in_line(kid)
                self._fill(self._add("/P", home) if block else home, kid, sheets, start)
            else:
                self._fill(self._add(kid["/S"], home, kid, start), kid, sheets, start)

    def _hold(self, home: Any, sheet: int, number: int) -> None:
        """Give an element a piece of content, by its number on its sheet."""
        self._held[sheet][number] = home.indirect_reference
        page, content = self._sheets[sheet], cast(Any, NumberObject(number))
        home.setdefault(NameObject("/Pg"), page)
        if home.raw_get("/Pg") != page:  # an element may go on on the next sheet
            content = _dictionary(Type=NameObject("/MCR"), Pg=page, MCID=content)
        home["/K"].append(content)

    def link(self, start: int, number: int, annotation: DictionaryObject) -> None:
        """Give the element of a link its annotation.

        Args:
            start: The first sheet of its part.
            number: Of the annotation's object in the part.
            annotation: As it stands on a sheet of the joined PDF.
        """
        if home := self._links.get((start, number)):
            key = len(self._held) + len(self._linked)
            annotation[NameObject("/StructParent")] = NumberObject(key)
            self._linked.append(home.indirect_reference)
            at, page = annotation.indirect_reference, annotation.raw_get("/P")
            home["/K"].append(_dictionary(Type=NameObject("/OBJR"), Obj=at, Pg=page))

    def finish(self) -> None:
        """Write down which element holds what, when the last link has its annotation."""
        of_sheets = [_array(held) for held in self._held]
        owners = [*map(self._writer._add_object, of_sheets), *self._linked]
        pairs = [part for key, at in enumerate(owners) for part in (NumberObject(key), at)]
        names = [part for name in sorted(self._names) for part in (name, self._names[name])]
        parents = _dictionary(Nums=ArrayObject(pairs))
        self._root.update(
            _dictionary(
                ParentTree=self._writer._add_object(parents),
                ParentTreeNextKey=NumberObject(len(owners)),
                IDTree=_dictionary(Names=ArrayObject(names)),
            )
        )


def _dictionary(**entries: Any) -> DictionaryObject:
    return DictionaryObject({NameObject(f"/{key}"): value for key, value in entries.items()})


def _array(held: dict[int, Any]) -> ArrayObject:
    """Return a list with each element at the number of what it holds."""
    return ArrayObject(
        held.get(number, NullObject()) for number in range(max(held, default=-1) + 1)
    )


def _listed(kids: Any) -> Iterator[Any]:
    """Yield what may stand alone, or in a list, or elsewhere in the file."""
    kids = kids.get_object() if hasattr(kids, "get_object") else kids
    for kid in kids if isinstance(kids, list) else [kids]:
        yield kid.get_object() if hasattr(kid, "get_object") else kid


def _is_in_line(element: Any) -> bool:
    """Tell whether an element holds nothing but text."""
    kids = [kid for kid in _listed(element.get("/K", [])) if isinstance(kid, dict) and "/S" in kid]
    return all(kid["/S"] in IN_LINE and _is_in_line(kid) for kid in kids)


def _name(start: int, name: str) -> TextStringObject:
    """Return an element's name that no other part has; they sort as their parts do."""
    return TextStringObject(f"{start:06d}-{name}")

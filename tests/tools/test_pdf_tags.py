"""A joined PDF must say what its headings, tables, pictures and links are, for those who listen."""

import io
from collections import defaultdict

import pytest
from pypdf import PdfReader, PdfWriter

from tools.build_pdf import TITLE, Place, Printed, chromium, join, print_pages, published

PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8"></head>
<body><article><h1>{title}</h1>{body}</article></body></html>"""
DOT = "data:image/gif;base64,R0lGODlhAQABAIAAAP///wAAACwAAAAAAQABAAACAkQBADs="
PANEL = f'<img src="{DOT}" alt="" width="90" height="60">'
FIRST = (
    '<h2>A table</h2><table><thead><tr><th scope="col">n</th><th scope="col">loss</th></tr></thead>'
    "<tr><td>1</td><td>0.5</td></tr></table>"
    '<div><div><pre>one = <span>1</span>\ntwo = <span id="own">2</span></pre></div></div>'
    f"<p>{'<br>'.join(['begins here', *['goes on'] * 70, 'and ends there'])}</p>"
    '<a href="second.html">onwards</a><a href="#own">upwards</a>'
)
SECOND = f'<h2>A picture</h2><div role="img" aria-label="Two dots">{PANEL}{PANEL}</div>'


def kids_of(element):
    held = element["/K"].get_object()
    for kid in held if isinstance(held, list) else [held]:
        yield kid.get_object()


def is_element(kid):
    return isinstance(kid, dict) and "/S" in kid


def elements(element):
    """Walk through a tree of elements in reading order."""
    yield element
    for kid in kids_of(element):
        if is_element(kid):
            assert kid["/P"] == element
            yield from elements(kid)


def texts_of(page):
    """Return the text of each marked piece of a page."""
    texts, inside = defaultdict(str), []

    def note(operator, operands, *_):
        if operator in (b"BDC", b"BMC"):
            number = operands[1].get("/MCID") if operator == b"BDC" else None
            inside.append(number)
        elif operator == b"EMC":
            inside.pop()

    def read(text, *_):
        if inside:
            texts[inside[-1]] += text

    page.extract_text(visitor_operand_before=note, visitor_text=read)
    return texts


class Listener:
    """Read a PDF by its tags, as a screen reader does."""

    def __init__(self, file):
        self.pdf = PdfReader(file)
        self.root = self.pdf.root_object
        self.tree = self.root["/StructTreeRoot"]
        self.texts = {page.indirect_reference.idnum: texts_of(page) for page in self.pdf.pages}

    def pieces(self, element):
        """Yield who holds each piece of content, its sheet and its number, in reading order."""
        for kid in kids_of(element):
            if isinstance(kid, int):
                yield element, element.raw_get("/Pg").idnum, kid
            elif kid.get("/Type") == "/MCR":
                yield element, kid.raw_get("/Pg").idnum, kid["/MCID"]
            elif is_element(kid):
                yield from self.pieces(kid)

    def says(self, element):
        said = (self.texts[sheet][number] for _, sheet, number in self.pieces(element))
        return " ".join("".join(said).split())

    def all(self, *kinds):
        (book,) = kids_of(self.tree)
        return [one for one in elements(book) if not kinds or one["/S"] in kinds]

    def owners(self):
        """Return what the parent tree holds for each key."""
        pairs = self.tree["/ParentTree"]["/Nums"]
        assert pairs[::2] == sorted(set(pairs[::2]))
        owners = (owner.get_object() for owner in pairs[1::2])
        return dict(zip(pairs[::2], owners, strict=True))


def listen(printed):
    file = io.BytesIO()
    join(printed, published()).write(file)
    return Listener(file)


@pytest.mark.browser
class TestPrinted:
    @pytest.fixture(scope="class")
    @staticmethod
    def printed(apart, tmp_path_factory):
        site = tmp_path_factory.mktemp("site")
        for name, body in {"first": FIRST, "second": SECOND}.items():
            page = PAGE.format(title=f"The {name}", body=body)
            (site / f"{name}.html").write_text(page)

        def both():
            with chromium() as tab:
                return print_pages(tab, [Place("first", 0), Place("second", 0)], site)

        try:
            return apart(both)
        except FileNotFoundError as error:
            pytest.skip(str(error))

    @pytest.fixture(scope="class")
    @staticmethod
    def heard(printed):
        return listen(printed)

    def test_the_headings_are_those_of_both_pages(self, heard):
        headings = [(one["/S"], heard.says(one)) for one in heard.all("/H1", "/H2")]
        assert headings == [
            ("/H1", "The first"),
            ("/H2", "A table"),
            ("/H1", "The second"),
            ("/H2", "A picture"),
        ]
        assert [one["/S"] for one in heard.all()].count("/Document") == 1

    def test_it_has_a_language_and_a_title_that_is_shown(self, heard):
        assert heard.root["/Lang"] == "en"
        assert heard.root["/MarkInfo"]["/Marked"] == True  # noqa: E712  an object of pypdf
        assert heard.root["/ViewerPreferences"]["/DisplayDocTitle"] == True  # noqa: E712
        assert heard.pdf.metadata.title == TITLE

    def test_every_piece_of_content_leads_back_to_the_element_that_holds_it(self, heard):
        owners, (book,) = heard.owners(), kids_of(heard.tree)
        keys = {page.indirect_reference.idnum: page["/StructParents"] for page in heard.pdf.pages}
        assert sorted(keys.values()) == list(range(len(heard.pdf.pages)))
        pieces = list(heard.pieces(book))
        assert len(pieces) > 80
        for element, sheet, number in pieces:
            assert owners[keys[sheet]][number].get_object() == element

    def test_a_block_of_code_is_one_paragraph(self, heard):
        assert "one = 1 two = 2" in [heard.says(one) for one in heard.all("/P")]

    def test_text_goes_on_on_the_next_sheet(self, heard):
        (element,) = (one for one in heard.all("/P") if "begins" in heard.says(one))
        assert heard.says(element).endswith("and ends there")
        assert len({sheet for _, sheet, _ in heard.pieces(element)}) == 2

    def test_a_cell_names_its_heading(self, heard):
        names = heard.tree["/IDTree"]["/Names"]
        assert names[::2] == sorted(names[::2])
        named = dict(zip(names[::2], names[1::2], strict=True))
        headed = {}
        for cell in heard.all("/TD"):
            (attributes,) = (one for one in cell["/A"] if "/Headers" in one)
            headed[heard.says(cell)] = [heard.says(named[name]) for name in attributes["/Headers"]]
        assert headed == {"1": ["n"], "0.5": ["loss"]}

    def test_two_parts_may_use_the_same_names(self, heard, printed):
        """Chromium counts them within a process, and may begin anew in another one."""
        one, two = (listen(parts).tree["/IDTree"]["/Names"] for parts in (printed, printed * 2))
        assert len(set(two[::2])) == 2 * len(set(one[::2])) > 0

    def test_a_row_of_panels_is_described_once(self, heard):
        assert [one.get("/Alt") for one in heard.all("/Figure")] == ["Two dots"]

    def test_a_link_knows_its_annotation_and_the_annotation_its_link(self, heard):
        owners, led = heard.owners(), {}
        for link in heard.all("/Link"):
            (mark,) = (kid for kid in kids_of(link) if isinstance(kid, dict) and "/Obj" in kid)
            assert owners[mark["/Obj"]["/StructParent"]] == link
            assert mark.raw_get("/Obj") in mark["/Pg"]["/Annots"]
            led[heard.says(link)] = heard.pdf.get_page_number(mark["/Obj"]["/Dest"][0].get_object())
        assert led == {"onwards": 2, "upwards": 0}


def test_a_page_without_tags_is_joined_all_the_same():
    plain, file = PdfWriter(), io.BytesIO()
    plain.add_blank_page(100, 100)
    plain.write(file)
    heard = listen([Printed(Place(name, 0), name, file.getvalue()) for name in "ab"])
    assert [one["/S"] for one in heard.all()] == ["/Document"]

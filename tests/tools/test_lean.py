"""Pages made light: one style sheet, one script, icons, sizes of pictures, and nothing lost."""

import struct

import pytest

from book._ext import lean

PAGE = """<html data-content_root="../"><head>
  <link href="../_static/styles/theme.css?digest=1" rel="stylesheet" />
    <link rel="stylesheet" type="text/css" href="../_static/custom.css?v=1" />
  <link rel="preload" as="script" href="../_static/scripts/bootstrap.js?digest=1" />
  <script defer src="../_static/scripts/fontawesome.js?digest=1"></script>
    <script src="../_static/doctools.js?v=9"></script>
    <script>let toggleHintShow = 'Click';</script>
    <script>window.MathJax = {"loader": {"load": []}}</script>
    <link rel="canonical" href="https://example.org/" />
</head><body class="old"><i class="fa-solid fa-bars"></i><img src="../_images/a.png" alt="">
<script>window.mine = 1;</script></body></html>"""


def test_assets_are_read_in_order_without_those_of_no_use():
    assert lean.assets(PAGE) == (
        ["../_static/styles/theme.css", "../_static/custom.css"],
        ["../_static/doctools.js"],
    )


def test_a_light_page_fetches_one_sheet_and_one_script_and_keeps_the_rest():
    light = lean.lighten(PAGE, "../", "7", {"a.png": (30, 20)})
    assert light.count("<link") == 2
    assert '<link rel="stylesheet" href="../_static/book.css?v=7" />' in light
    assert '<script defer src="../_static/book.js?v=7"></script>' in light
    assert light.count("<script") == 2
    assert "window.mine = 1" in light
    assert 'rel="canonical"' in light
    assert '<img width="30" height="20" loading="lazy" src="../_images/a.png"' in light


def test_only_a_page_with_a_formula_keeps_the_settings_of_mathjax():
    assert "MathJax" not in lean.lighten(PAGE, "../", "7", {})
    with_formula = PAGE.replace("<i class", r'<span class="math notranslate">\(x\)</span><i class')
    assert "window.MathJax" in lean.lighten(with_formula, "../", "7", {})


def test_only_the_page_of_the_search_fetches_what_it_reads():
    assert "sections.js" not in lean.lighten(PAGE, "", "7", {})
    searching = PAGE.replace("<i class", '<div id="search-results"></div><i class')
    assert "_static/sections.js?v=7" in lean.lighten(searching, "", "7", {})


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        ('<img src="a.png" width="60">', ' height="40"'),
        ('<img src="a.png">', ' width="30" height="20"'),
        ('<img src="a.png" width="60" height="9">', ""),
        ('<img src="b.png">', ""),
        ('<img src="a.png" width="100%">', ""),
    ],
)
def test_a_picture_says_how_large_it_is_and_waits(image, expected):
    sized = lean.sized(image, {"a.png": (30, 20)})
    assert sized == image.replace("<img", f'<img{expected} loading="lazy"')


def test_the_logo_does_not_wait():
    assert "lazy" not in lean.sized('<img src="a.png" class="logo__image">', {})


def test_sizes_are_read_from_files(tmp_path):
    png, svg, other = tmp_path / "a.png", tmp_path / "a.svg", tmp_path / "a.txt"
    png.write_bytes(b"\x89PNG\r\n\x1a\n" + b"\0\0\0\rIHDR" + struct.pack(">II", 30, 20))
    svg.write_text('<svg width="3pt" viewBox="0 0 40.4 20"></svg>')
    other.write_text("")
    assert lean.size_of(png) == (30, 20)
    assert lean.size_of(svg) == (40, 20)
    assert lean.size_of(other) is None
    svg.write_text("<svg></svg>")
    assert lean.size_of(svg) is None


SHEET = """/* words */ :root{--a:1} .old, .gone > p{color:red} .gone{color:blue}
p:not(.gone){margin:0} a[href^="http"], #gone{top:0} .w\\:x{left:0}
@media print{.gone{top:1px} .old:hover{top:2px}} @media screen{.gone{top:3px}}
@font-face{font-family:"Font Awesome 6 Free";src:url(../fontawesome.woff2)}
@font-face{font-family:Mine} @keyframes turn{to{top:0}}"""


def test_rules_for_names_that_nobody_uses_are_dropped_and_no_others():
    kept = lean.used_rules(SHEET, {"old", "w:x"})
    assert "--a:1" in kept
    assert " .old{color:red}" in kept or ".old{color:red}" in kept
    assert "blue" not in kept
    assert "p:not(.gone)" in kept
    assert 'a[href^="http"]' in kept
    assert "#gone" not in kept
    assert r".w\:x" in kept
    assert "@media print{" in kept.replace("print {", "print{")
    assert "top:2px" in kept
    assert "top:1px" not in kept
    assert "screen" not in kept
    assert "fontawesome" not in kept
    assert "Mine" in kept
    assert "turn" in kept


def test_addresses_in_a_sheet_are_written_for_its_new_folder():
    sheet = 'a{b:url("../x/y.png");c:url(z.svg);d:url(data:image/png;base64,AA);e:url(#f)}'
    assert lean.rebased(sheet, "_static/styles") == (
        'a{b:url("../_static/x/y.png");c:url("../_static/styles/z.svg");'
        "d:url(data:image/png;base64,AA);e:url(#f)}"
    )


ICONS = 'x={bars:[448,512,["navicon"],"f0c9","M0 96Z"],"arrow-up":[384,512,[8593],"f062","M21 4z"]}'


def test_icons_are_cut_from_the_theme_by_name_and_former_name():
    drawn = lean.icons(["bars", "arrow-up", "navicon", "lg"], ICONS)
    assert drawn.count("--icon:url(") == 3
    assert "M21 4z" in drawn
    assert ".fa-arrow-up{" in drawn
    assert "width:0.750em" in drawn
    assert "CC BY 4.0" in drawn


def write(site, sheet="sheet.css"):
    (site / "_static/scripts").mkdir(parents=True)
    (site / "book").mkdir()
    (site / "_images").mkdir()
    (site / "book/a.html").write_text(PAGE)
    (site / "_static/styles").mkdir()
    (site / "_static/styles/theme.css").write_text('@import "../basic.css";')
    (site / "_static/basic.css").write_text(".old{top:0}.gone{top:1px}")
    (site / "_static/custom.css").write_text("body{left:0}")
    (site / "_static/doctools.js").write_text("window.first = 1")
    (site / "_static/scripts/fontawesome.js").write_text(ICONS)


def test_a_site_is_finished_once(tmp_path):
    write(tmp_path)
    lean.finish(tmp_path)
    page = (tmp_path / "book/a.html").read_text()
    sheet = (tmp_path / lean.STYLES).read_text()
    assert sheet.index(".old{top:0}") < sheet.index("body{left:0}") < sheet.index(".fa-bars{")
    assert "gone" not in sheet
    assert "window.first = 1" in (tmp_path / lean.SCRIPTS).read_text()
    lean.finish(tmp_path)
    assert (tmp_path / "book/a.html").read_text() == page
    assert (tmp_path / lean.STYLES).read_text() == sheet


def test_pages_without_a_sheet_are_no_pages_of_sphinx(tmp_path):
    write(tmp_path)
    path = tmp_path / "book/a.html"
    path.write_text(lean.LINK.sub("", lean.LINK_REVERSED.sub("", PAGE)))
    with pytest.raises(lean.ExtensionError, match="expected pages that link style sheets"):
        lean.finish(tmp_path)

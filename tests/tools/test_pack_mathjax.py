"""The part of MathJax that the book ships."""

import pytest

from tools import pack_mathjax

FONT = (
    'n.normal=(0,H.AddPaths)(V.normal,{65:"A",8704:"all",120068:"bold"},{8243:"x"});'
    'n.fraktur=(0,H.AddPaths)(V.fraktur,{65:"a"},{});rest()'
)


def test_letters_of_no_use_are_left_out_and_nothing_else():
    assert pack_mathjax.lean(FONT) == (
        'n.normal=(0,H.AddPaths)(V.normal,{65:"A",8704:"all",},{8243:"x"});'
        "n.fraktur=(0,H.AddPaths)(V.fraktur,{},{});rest()"
    )


def test_another_font_is_refused():
    with pytest.raises(ValueError, match=r"expected output/svg/fonts/tex.js of MathJax 3.2"):
        pack_mathjax.lean("alert()")


@pytest.mark.parametrize(
    ("sign", "kept"),
    [
        ("x", True),
        ("α", True),
        ("∑", True),
        ("⪯", False),
        ("𝑠", True),
        ("𝛼", True),
        ("\ue152", True),
        ("ℎ", True),
    ],
)
def test_signs_are_chosen(sign, kept):
    assert pack_mathjax.is_kept(ord(sign)) == kept


def test_parts_stand_in_the_order_in_which_they_need_each_other(tmp_path):
    for part in pack_mathjax.PARTS:
        path = tmp_path / "es5" / f"{part}.js"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(FONT if part.endswith("tex") and "fonts" in part else f"{part}()")
    packed = pack_mathjax.pack(tmp_path)
    assert packed.startswith(pack_mathjax.LICENCE)
    scripts = [part for part in pack_mathjax.PARTS if "fonts" not in part]
    places = [packed.index(f"{part}()") for part in scripts]
    assert places == sorted(places)
    assert "120068" not in packed


def test_what_is_shipped_is_packed_and_has_its_licence():
    shipped = pack_mathjax.PACKED.read_text()
    assert shipped.startswith(pack_mathjax.LICENCE)
    assert len(shipped) < 1_300_000
    assert "Apache License" in pack_mathjax.PACKED.with_name("LICENSE").read_text()

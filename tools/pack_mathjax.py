"""Pack the part of MathJax that the book needs into one file of ``book/_static/mathjax``.

    npm pack mathjax@3.2.2 && tar xzf mathjax-3.2.2.tgz
    python -m tools.pack_mathjax package

MathJax ships its parts as files that load each other, and its whole font with them: a megabyte of
letters, most of them in alphabets that no formula of the book is written in. Here the parts stand
in one file, and the font keeps Latin, Greek, and the signs of ``SIGNS``. A letter that is missing
leaves a gap, and a test of the site names the page.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from labs.stamp import ROOT

PACKED = ROOT / "book/_static/mathjax/formulas.js"
PARTS = (
    *("startup", "core", "input/tex-base", "input/tex/extensions/ams"),
    *("output/svg", "output/svg/fonts/tex", "a11y/assistive-mml"),
)
LICENCE = "/*! MathJax 3.2.2, parts of it in one file, (c) The MathJax Consortium, Apache-2.0 */\n"
# Alphabets and styles that the book has no use for.
UNUSED = {
    *("fraktur", "frakturBold", "monospace", "sansSerif", "sansSerifBold", "sansSerifItalic"),
    *("sansSerifBoldItalic", "texCalligraphicBold", "texOldstyle", "texOldstyleBold"),
}
SIGNS = frozenset(
    "…′″‴ℎℏℑℓ℘ℜℂℕℚℝℤ∂∇∞∀∃∄∅∈∉∋∏∐∑−∓∗∘∙√∝∠∣∤∥∦∧∨∩∪∫∬∭∮∴∵∼≃≅≈≠≡≢≤≥≪≫≺≻⊂⊃⊄⊆⊇⊕⊖⊗⊘⊙⊢⊤⊥⋀⋁⋂⋃⋅⋆⋮⋯⋱⌈⌉⌊⌋⟨⟩"
    "⏞⏟⎛⎜⎝⎞⎟⎠⎡⎢⎣⎤⎥⎦⎧⎨⎩⎪⎫⎬⎭⎰⎱⎷←↑→↓↔↕⇐⇑⇒⇓⇔↦⟵⟶⟷⟸⟹⟺⟼⟮⟯■□△▽★–—‖‘’“”†‡•\u2061\u2062\u2063\u2064"
)
ALPHABET = re.compile(r"\.(\w+)=\(0,\w+\.AddPaths\)\(\w+\.\w+,\{")
GLYPH = re.compile(r'(\d+):"[^"]*",?')


def is_kept(code: int) -> bool:
    """Tell whether the font keeps a character: Latin, Greek, accents, spaces, braces, SIGNS."""
    # Slanted and bold letters of formulas have places of their own, from 0x1D400 on.
    letters = ((0x1D400, 0x1D467), (0x1D49C, 0x1D4CF), (0x1D538, 0x1D56B), (0x1D6A4, 0x1D755))
    signs = ((0, 0x17F), (0x2B0, 0x3FF), (0x2000, 0x200F), (0xE000, 0xE1FF))
    wanted = (*signs, *letters)
    return any(first <= code <= last for first, last in wanted) or chr(code) in SIGNS


def lean(font: str) -> str:
    """Return MathJax's font for SVG without the letters that the book has no use for.

    Raises:
        ValueError: When the text is not that font as MathJax 3.2 writes it.
    """
    pieces, end = [], 0
    for alphabet in ALPHABET.finditer(font):
        pieces.append(font[end : alphabet.end()])
        end = alphabet.end()
        while glyph := GLYPH.match(font, end):
            if alphabet[1] not in UNUSED and is_kept(int(glyph[1])):
                pieces.append(glyph[0])
            end = glyph.end()
    if not pieces:
        raise ValueError("expected output/svg/fonts/tex.js of MathJax 3.2, got no alphabet in it")
    return "".join(pieces) + font[end:]


def pack(package: Path) -> str:
    """Return one script made of the parts of an unpacked npm package of MathJax."""
    parts = {part: (package / "es5" / f"{part}.js").read_text("utf-8") for part in PARTS}
    parts["output/svg/fonts/tex"] = lean(parts["output/svg/fonts/tex"])
    return LICENCE + "\n".join(text.strip().rstrip(";") + ";" for text in parts.values()) + "\n"


def main() -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("package", type=Path, help="the unpacked npm package")
    PACKED.write_text(pack(parser.parse_args().package), encoding="utf-8")


if __name__ == "__main__":
    main()

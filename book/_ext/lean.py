"""Make each page light: one style sheet, one script, and nothing that the book does not use.

The theme and the extensions bring nine style sheets, twelve scripts and two thousand icons to every
page. After the pages are written,

- the style sheets become one, ``_static/book.css``, without rules for classes that no page and no
  script names;
- the scripts become one, ``_static/book.js``, which runs when the page has been read;
- an icon is a mask in that style sheet, cut from the theme's own file, if a page has it;
- every picture says how large it is, so that nothing moves when it arrives;
- MathJax is fetched by ``formulas_when_near.js`` when a formula comes near.

What is here reads HTML that Sphinx wrote moments ago, so it looks for exactly what Sphinx writes.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import quote

import tinycss2
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError

STYLES = "_static/book.css"
SCRIPTS = "_static/book.js"
ICONS = "_static/scripts/fontawesome.js"
SEARCH = ("_static/sections.js", "_static/search.js")
SEARCHES = 'id="search-results"'
# What is left out of the page, and not put into the one script either.
NEEDLESS = {
    *("fontawesome.js", "togglebutton.js", "togglebutton.css", "design-tabs.js"),
    *("searchtools.js", "language_data.js", "searchindex.js", "formulas.js"),
}
LINK = re.compile(r'[ \t]*<link [^>]*rel="stylesheet"[^>]*href="([^"]+)"[^>]*>\n?')
LINK_REVERSED = re.compile(r'[ \t]*<link href="([^"]+)" rel="stylesheet" />\n?')
SCRIPT = re.compile(r'[ \t]*<script [^>]*\bsrc="([^":]+)"[^>]*></script>\n?')
PRELOAD = re.compile(r'[ \t]*<link rel="preload" as="script"[^>]*>\n?')
SETTING = re.compile(
    r"[ \t]*<script>(?:let toggle|var togglebutton|DOCUMENTATION_OPTIONS)[^<]*</script>\n?"
)
FORMULA = re.compile(r'class="math[ "]')
MATHJAX = re.compile(r"[ \t]*<script>window\.MathJax = [^<]*</script>\n?")
THEME = 'document.documentElement.dataset.theme = localStorage.getItem("theme") || "auto";'
# Before anything is shown: "auto" is neither light nor dark, and has no colours.
RESOLVED = (
    'document.documentElement.dataset.theme = { light: "light", dark: "dark" }'
    '[localStorage.getItem("mode")] ?? (matchMedia("(prefers-color-scheme: dark)").matches'
    ' ? "dark" : "light");'
)
IMAGE = re.compile(r"<img\b[^>]*>")
ICON = re.compile(r"\bfa-([a-z][a-z0-9-]*)")
WORD = re.compile(r"[A-Za-z_][\w-]*")
SELECTED = re.compile(r"[.#]((?:\\.|[\w-])+)")
IMPORT = re.compile(r"""@import\s+["']([^"':]+)["'];""")
URL = re.compile(r"""url\((['"]?)(?!data:|#|https?:)([^'")]+)\1\)""")


def assets(page: str) -> tuple[list[str], list[str]]:
    """Return the addresses of a page's own style sheets and scripts, in the order they act.

    Args:
        page: HTML as Sphinx wrote it.
    """
    sheets = [*LINK_REVERSED.findall(page), *LINK.findall(page)]
    return _needed(sheets), _needed(SCRIPT.findall(page))


def _needed(addresses: Iterable[str]) -> list[str]:
    plain = (address.partition("?")[0] for address in addresses)
    return [address for address in dict.fromkeys(plain) if Path(address).name not in NEEDLESS]


def lighten(page: str, root: str, version: str, sizes: dict[str, tuple[int, int]]) -> str:
    """Return a page that asks for one style sheet and one script, with the sizes of its pictures.

    Args:
        page: HTML as Sphinx wrote it.
        root: From the page to the root of the site, such as ``"../../"``.
        version: Changes with what is fetched, so that no old copy is used.
        sizes: Width and height of a picture, by the name of its file.
    """
    fetch = (
        f'<link rel="stylesheet" href="{root}{STYLES}?v={version}" />\n'
        f'<script defer src="{root}{SCRIPTS}?v={version}"></script>\n'
    )
    if SEARCHES in page:
        fetch += "".join(
            f'<script defer src="{root}{file}?v={version}"></script>\n' for file in SEARCH
        )
    for needless in (LINK_REVERSED, LINK, SCRIPT, PRELOAD, SETTING):
        page = needless.sub("", page)
    if not FORMULA.search(page):
        page = MATHJAX.sub("", page)
    page = page.replace(THEME, RESOLVED).replace("</head>", f"{fetch}</head>", 1)
    return IMAGE.sub(lambda image: sized(image[0], sizes), page)


def sized(image: str, sizes: dict[str, tuple[int, int]]) -> str:
    """Return the tag of a picture with its width and height, and waiting until it is needed."""
    file = _attribute(image, "src").rpartition("/")[2].partition("?")[0]
    added = {}
    if file in sizes and not _attribute(image, "height"):
        wide, high = sizes[file]
        width = _attribute(image, "width")
        if width.isdigit():
            added = {"height": str(round(int(width) * high / wide))}
        elif not width:
            added = {"width": str(wide), "height": str(high)}
    if not _attribute(image, "loading") and "logo__image" not in image:
        added["loading"] = "lazy"
    attributes = "".join(f' {name}="{value}"' for name, value in added.items())
    return image.replace("<img", f"<img{attributes}", 1)


def _attribute(tag: str, name: str) -> str:
    found = re.search(rf'\s{name}="([^"]*)"', tag)
    return found[1] if found else ""


def size_of(picture: Path) -> tuple[int, int] | None:
    """Return width and height of a PNG or an SVG in pixels; nothing where it does not say."""
    if picture.suffix == ".png":
        width, height = struct.unpack(">II", picture.read_bytes()[16:24])
        return width, height
    if picture.suffix == ".svg":
        box = re.search(r'viewBox="[\d.-]+ [\d.-]+ ([\d.]+) ([\d.]+)"', picture.read_text("utf-8"))
        return (round(float(box[1])), round(float(box[2]))) if box else None
    return None


def used_rules(sheet: str, names: set[str]) -> str:
    """Return a style sheet without rules that select a class or an id that is not in use.

    A rule is kept when in doubt: a name counts as used wherever it stands as a word.

    Args:
        sheet: CSS.
        names: The words of all pages and scripts.
    """
    return "".join(_used(tinycss2.parse_stylesheet(sheet, True, True), names))


def _used(rules: list[Any], names: set[str]) -> Iterator[str]:
    for rule in rules:
        if rule.type == "qualified-rule":
            if parts := [*_selectors(rule.prelude, names)]:
                yield f"{','.join(parts)}{{{_css(rule.content)}}}\n"
        elif rule.type == "at-rule" and rule.lower_at_keyword in ("media", "supports", "layer"):
            if rule.content is None:
                yield rule.serialize() + "\n"
                continue
            inside = tinycss2.parse_rule_list(rule.content, True, True)
            if kept := "".join(_used(inside, names)):
                yield f"@{rule.at_keyword} {_css(rule.prelude)}{{{kept}}}\n"
        elif rule.type == "at-rule" and not _is_icon_font(rule):
            yield rule.serialize() + "\n"


def _is_icon_font(rule: Any) -> bool:
    return rule.lower_at_keyword == "font-face" and "fontawesome" in _css(rule.content).lower()


def _css(tokens: list[Any]) -> str:
    return str(tinycss2.serialize([t for t in tokens if t.type != "comment"])).strip(" \n")


def _selectors(prelude: list[Any], names: set[str]) -> Iterator[str]:
    part: list[Any] = []
    for token in [*prelude, None]:
        if token is not None and token != ",":
            part.append(token)
            continue
        text = tinycss2.serialize([t for t in part if t.type != "comment"]).strip()
        part = []
        outside = re.sub(r":(?:not|is|where|has)\([^)]*\)", "", text)
        wanted = (name.replace("\\", "") for name in SELECTED.findall(outside))
        if text and all(name in names for name in wanted):
            yield f" {text}" if token else text


def _whole(file: Path, root: Path) -> str:
    """Return a style sheet with those that it imports in it."""
    text = rebased(file.read_text("utf-8"), file.parent.relative_to(root).as_posix())
    return IMPORT.sub(lambda found: _whole((file.parent / found[1]).resolve(), root), text)


def rebased(sheet: str, folder: str) -> str:
    """Return a style sheet of a folder of the site as it must be written in ``_static``."""

    def place(found: re.Match[str]) -> str:
        at = Path("/", folder, found[2]).as_posix()
        parts: list[str] = []
        for part in at.strip("/").split("/"):
            if part == "..":
                parts.pop()
            elif part != ".":
                parts.append(part)
        return f'url("../{"/".join(parts)}")'

    return URL.sub(place, sheet)


def icons(names: Iterable[str], source: str) -> str:
    """Return a style sheet that draws icons as masks in the colour of the text.

    Args:
        names: Such as ``"arrow-up"``; those that the source does not hold are other classes.
        source: The theme's script of all icons.
    """
    rules = []
    for name in sorted(set(names)):
        word = re.escape(name)
        rest = r'\],"\w+","([^"]+)"\]'
        found = re.search(rf'[{{,]"?{word}"?:\[(\d+),(\d+),\[[^\]]*{rest}', source) or re.search(
            rf'\[(\d+),(\d+),\[[^\]]*"{word}"[^\]]*{rest}',
            source,  # its former name
        )
        if found:
            svg = (
                f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {found[1]} {found[2]}">'
                f'<path d="{found[3]}"/></svg>'
            )
            wide = int(found[1]) / int(found[2])
            also = ",a.reference.download::before" if name == "download" else ""
            rules.append(
                f'.fa-{name}{also}{{--icon:url("data:image/svg+xml,{quote(svg, safe=" /:=<>")}");'
                f"width:{wide:.3f}em}}\n".replace("<", "%3C").replace(">", "%3E")
            )
    drawn = (
        'a.reference.download::before{content:"";margin-right:.5em}\n'
        "i:is(.fas,.fab,.fa-solid,.fa-brands),a.reference.download::before{display:inline-block;height:1em;vertical-align:-.125em;"
        "background:currentColor;-webkit-mask:var(--icon) center/contain no-repeat;"
        "mask:var(--icon) center/contain no-repeat}\n"
        ".fa-lg:not(.theme-switch){font-size:1.25em;vertical-align:-.2em}\n"
    )
    return LICENCE + "".join(rules) + drawn


LICENCE = "/*! Icons: Font Awesome Free, https://fontawesome.com/license/free, CC BY 4.0 */\n"


def finish(site: Path) -> None:
    """Make all pages of a site light, in place; a page that was made so before is left as it is.

    Raises:
        ExtensionError: When no page asks for a style sheet, because Sphinx writes it differently.
    """
    pages = {path: path.read_text("utf-8") for path in sorted(site.rglob("*.html"))}
    heavy = {
        path: html
        for path, html in pages.items()
        if "_static" not in path.parts
        and "</head>" in html
        and SCRIPT.search(html)
        and STYLES not in html
    }
    if not heavy:
        return
    sheets: dict[Path, None] = {}
    scripts: dict[Path, None] = {}
    for path, html in heavy.items():
        found, run = assets(html)
        sheets |= {(path.parent / address).resolve(): None for address in found}
        scripts |= {(path.parent / address).resolve(): None for address in run}
    if not sheets:
        raise ExtensionError(
            "expected pages that link style sheets, got none; see book/_ext/lean.py"
        )
    script = "".join(f"{file.read_text('utf-8').rstrip()}\n;\n" for file in scripts)
    script = re.sub(r"^//# sourceMappingURL=.*$", "", script, flags=re.MULTILINE)
    names = {word for text in (*pages.values(), script) for word in WORD.findall(text)}
    root = site.resolve()
    sheet = "".join(used_rules(_whole(file, root), names) for file in sheets)
    wanted = {name for text in (*pages.values(), script) for name in ICON.findall(text)}
    sheet = _without_icons(sheet) + icons(wanted, (site / ICONS).read_text("utf-8"))
    (site / STYLES).write_text(f'@charset "utf-8";\n{sheet}', encoding="utf-8")
    (site / SCRIPTS).write_text(script, encoding="utf-8")
    version = sha256((sheet + script).encode()).hexdigest()[:8]
    files = [*site.glob("_images/*"), *site.glob("_static/*")]
    sizes = {file.name: size for file in files if (size := size_of(file))}
    for path, html in heavy.items():
        up = "../" * (len(path.relative_to(site).parts) - 1)
        path.write_text(lighten(html, up, version, sizes), encoding="utf-8")


def _without_icons(sheet: str) -> str:
    """Drop the theme's own rules for icons, which are letters of a font that is not shipped."""
    return re.sub(r"^[^{}\n]*\.fa[-\w]*(?:::?before|::?after)?\{[^{}]*\}\n", "", sheet, flags=re.M)


def _on_finished(app: Sphinx, failed: Exception | None) -> None:
    if failed is None and app.builder.format == "html":
        finish(Path(app.outdir))


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the event with Sphinx."""
    app.connect("build-finished", _on_finished, priority=900)  # when all pages are written
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}

"""Pages mended for screen readers, and mended once."""

import pytest

from book._ext import access


@pytest.mark.parametrize(
    ("page", "mended"),
    [
        ("<tr><th></th><th>a</th></tr>", "<tr><td></td><th>a</th></tr>"),
        ('<th colspan="2"> </th>', '<td colspan="2"></td>'),
        (
            '<a class="reference internal" href="x.html">A <code>b</code> &quot;c&quot;</a>'
            '<details open="open"><summary><span></span></summary>',
            '<a class="reference internal" href="x.html">A <code>b</code> &quot;c&quot;</a>'
            '<details open="open"><summary aria-label="Pages of A b &quot;c&quot;"><span></span>'
            "</summary>",
        ),
        (
            '<dt class="sig x" id="f">f(<dl>\n<dd>a,</dd>\n</dl>)</dt><dd><dl><dt>b</dt></dl></dd>',
            '<dt class="sig x" id="f">f(<span class="sig-dl">\n<span class="sig-dd">a,'
            "</span>\n</span>)</dt><dd><dl><dt>b</dt></dl></dd>",
        ),
        (
            '<div role="list" class="citation-list"><div class="citation" role="doc-biblioentry">',
            '<div class="citation-list"><div class="citation">',
        ),
        (
            '<button class="btn search-button-field x" title="Search" aria-label="Search" id="a">',
            '<button class="btn search-button-field x" title="Search" id="a">',
        ),
        (
            '<div class="sidebar-primary-item">\n\n<a class="navbar-brand logo" href="#">',
            '<div class="sidebar-primary-item" role="navigation" aria-label="Book">\n\n'
            '<a class="navbar-brand logo" href="#">',
        ),
        (
            '<details><summary aria-label="Toggle hidden content">Code of this figure</summary>',
            "<details><summary>Code of this figure</summary>",
        ),
    ],
)
def test_each_fault_is_mended_and_what_is_mended_stays(page, mended):
    assert access.mend(page) == mended
    assert access.mend(mended) == mended


@pytest.mark.parametrize(
    "page",
    [
        "<details><summary>Hint 1</summary></details>",
        '<button class="btn other" aria-label="Search">',
        '<div class="sidebar-primary-item"><nav>',
        "<dl><dt>a</dt><dd>b</dd></dl>",
    ],
)
def test_what_is_no_fault_is_left_alone(page):
    assert access.mend(page) == page

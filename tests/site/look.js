// Look at the page that is open, and return what the tests ask of it.
(() => {
  // What is folded is read too.
  document.querySelectorAll("details").forEach((details) => { details.open = true; });

  const article = document.querySelector(".bd-article") ?? document.body;

  const rgba = (colour) => {
    const numbers = colour.match(/[\d.]+/g).map(Number);
    return [...numbers.slice(0, 3), numbers[3] ?? 1];
  };

  // Paint the backgrounds of an element and all around it over each other, the nearest last.
  const behind = (element) => {
    const layers = [];
    for (let at = element; at; at = at.parentElement) {
      layers.push(rgba(getComputedStyle(at).backgroundColor));
      if (layers.at(-1)[3] === 1) break;
    }
    return layers.reverse().reduce(
      (below, [r, g, b, a]) => [r, g, b].map((value, i) => a * value + (1 - a) * below[i]),
      [255, 255, 255],
    );
  };

  const luminance = (colour) =>
    colour.slice(0, 3)
      .map((value) => value / 255)
      .map((value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4))
      .reduce((sum, value, i) => sum + value * [0.2126, 0.7152, 0.0722][i], 0);

  const contrast = (element) => {
    const [text, ground] = [rgba(getComputedStyle(element).color), behind(element)].map(luminance);
    return (Math.max(text, ground) + 0.05) / (Math.min(text, ground) + 0.05);
  };

  const isShown = (element) => element.checkVisibility({ visibilityProperty: true, opacityProperty: true });

  const hasOwnText = (element) =>
    [...element.childNodes].some((node) => node.nodeType === Node.TEXT_NODE && node.data.trim());

  const name = (element) => `${element.tagName.toLowerCase()} "${element.textContent.trim().slice(0, 40)}"`;

  const texts = [...document.body.querySelectorAll("*")]
    .filter((element) => !element.closest("svg, script, style, noscript, mjx-assistive-mml"))
    .filter((element) => hasOwnText(element) && isShown(element));

  // A picture holds the size of its smallest letters at its own width; a page may show it smaller.
  const pictures = [...article.querySelectorAll("figure.labs-figure img")]
    .filter((image) => image.checkVisibility())
    .map((image) => {
      const shown = image.getBoundingClientRect().width;
      const text = Number(image.dataset.text);
      return { width: shown, text: text ? (text * shown) / Number(image.getAttribute("width")) : 99 };
    });

  const rows = [...article.querySelectorAll('figure.labs-figure [role="img"]')]
    .filter((row) => row.checkVisibility())
    .map((row) => new Set([...row.children].map((panel) => Math.round(panel.getBoundingClientRect().top))).size);

  return {
    pictures,
    rows,
    cut: [...article.querySelectorAll("div.cell_input pre")]
      .filter((pre) => pre.checkVisibility() && pre.scrollWidth > pre.clientWidth + 1)
      .map((pre) => pre.textContent.trim().slice(0, 60)),
    title: document.querySelector("h1")?.innerText ?? "",
    width: document.documentElement.scrollWidth,
    faint: texts
      .map((element) => ({ what: name(element), contrast: contrast(element) }))
      .filter(({ contrast }) => contrast < 4.5)
      .map(({ what, contrast }) => `${what} ${contrast.toFixed(2)}`),
    mute: [...document.images].filter((image) => !image.hasAttribute("alt")).map((image) => image.src.slice(-60)),
    silent: [...article.querySelectorAll("img")]
      .filter((image) => !image.alt.trim() && !image.closest('[role="img"][aria-label]')).map((image) => image.src.slice(-60)),
    broken: [...document.images].filter((image) => image.complete && !image.naturalWidth).map((image) => image.src.slice(-60)),
    formulas: article.querySelectorAll(".math").length,
    // A tall bracket is a drawing inside the drawing, so formulas are counted, not drawings.
    drawn: [...article.querySelectorAll(".math")].filter((e) => e.querySelector("mjx-container svg"))
      .length,
    // Letters are drawn as outlines; a <text> is one that the font of formulas does not have.
    // One without an outline, spaces and signs that nobody sees apart, is a letter that was left out.
    // Or nothing at all is drawn in its place: what is read aloud says which letters there are.
    strange: [
      ...[...article.querySelectorAll("mjx-container")]
        .filter((formula) => {
          const said = [...formula.querySelectorAll("mjx-assistive-mml :is(mi, mn)")].filter((e) => e.textContent.trim());
          const drawn = [...formula.querySelectorAll("g:is([data-mml-node=mi], [data-mml-node=mn])")]
            .filter((e) => e.querySelector("use, path, text, rect"));
          return drawn.length < said.length;
        })
        .map((formula) => `a letter is not drawn in ${formula.textContent.slice(0, 60)}`),
      ...[...article.querySelectorAll("mjx-container svg text")].map((e) => e.textContent),
      ...[...article.querySelectorAll("mjx-container svg path[data-c], mjx-container svg defs path")]
        .filter((e) => !/\d/.test(e.getAttribute("d") ?? "") && !/^(20|A0|200.|206.)$/.test(e.dataset.c ?? e.id.split("-").at(-1)))
        .map((e) => e.dataset.c ?? e.id),
    ],
    wrong: [...article.querySelectorAll("[data-mjx-error], mjx-merror")].map((e) => e.textContent),
  };
})();

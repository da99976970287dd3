// Search the sections of the book. Every word must be there; capitals count: "mAP" is not a map.
(() => {
  const place = document.getElementById("search-results");
  if (!place || !window.SECTIONS) return;
  const query = (new URLSearchParams(location.search).get("q") ?? "").trim();
  document.querySelectorAll('form.bd-search input[name="q"]').forEach((box) => { box.value = query; });
  const words = [...new Set(query.split(/\s+/).filter(Boolean))];
  if (!words.length) return;

  const SHOWN = 40;
  const SIDE = 90;
  const escape = (word) => word.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
  const stem = (word) => (word.length > 5 ? word.replace(/(?:ing|ed|es|s)$/, "") : word);
  const patterns = words.map((word) => ({
    exact: new RegExp(`(?<![\\p{L}\\p{N}_])${escape(word)}(?![\\p{L}\\p{N}_])`, "gu"),
    whole: new RegExp(`(?<![\\p{L}\\p{N}_])${escape(word)}(?:e?s)?(?![\\p{L}\\p{N}_])`, "giu"),
    // Chinese has no gaps between words: there any place will do.
    start: new RegExp(`${/^[\x20-\x7e]+$/.test(word) ? "(?<![\\p{L}\\p{N}])" : ""}${escape(stem(word))}`, "giu"),
    // Whoever writes a capital means it; without one, any case is as good.
    loose: /\p{Lu}/u.test(word) ? 0.1 : 1,
  }));

  const often = (text, pattern) => {
    const count = (text.match(pattern) ?? []).length;
    return count && 1 + Math.log2(count) / 4;
  };
  const found = (text, { exact, whole, start, loose }) =>
    4 * often(text, exact) + loose * (2 * often(text, whole) + often(text, start));
  const brief = (title) => 1 / (1 + title.split(/\s+/).length / 8);

  const top = new Map();
  for (const [page, , title] of SECTIONS) if (!top.has(page)) top.set(page, title);
  const rank = ([page, anchor, title, prose, code], at) => {
    const first = at === 0 || SECTIONS[at - 1][0] !== page;
    let sum = 0;
    for (const pattern of patterns) {
      const here = (first ? 14 : 8) * brief(title) * found(title, pattern) + found(prose, pattern) + 0.3 * found(code, pattern);
      if (!here && !found(top.get(page), pattern)) return 0;
      sum += here;
    }
    return sum;
  };
  const hits = SECTIONS.map((entry, at) => ({ entry, score: rank(entry, at) }))
    .filter(({ score }) => score > 0)
    .sort((a, b) => b.score - a.score);

  const marked = (text, element) => {
    const any = new RegExp(patterns.map(({ start }) => start.source).join("|"), "giu");
    let end = 0;
    for (const match of text.matchAll(any)) {
      const mark = document.createElement("mark");
      mark.textContent = match[0];
      element.append(text.slice(end, match.index), mark);
      end = match.index + match[0].length;
    }
    element.append(text.slice(end));
    return element;
  };
  const excerpt = (text) => {
    const at = Math.min(...patterns.flatMap(({ exact, start }) => [text.search(exact), text.search(start)]).filter((i) => i >= 0));
    if (!Number.isFinite(at)) return text.slice(0, 2 * SIDE);
    const from = at > SIDE ? text.lastIndexOf(" ", at - SIDE) + 1 : 0;
    const to = text.length > at + SIDE ? text.lastIndexOf(" ", at + SIDE) : text.length;
    return `${from ? "… " : ""}${text.slice(from, to)}${to < text.length ? " …" : ""}`;
  };

  const status = document.createElement("p");
  status.setAttribute("role", "status");
  status.textContent = hits.length
    ? `${hits.length} ${hits.length === 1 ? "place" : "places"}${hits.length > SHOWN ? `, the best ${SHOWN} of them` : ""}`
    : `Nothing has ${words.length === 1 ? "this word" : "all of these words"}. Fewer words, or shorter ones, find more.`;
  const list = document.createElement("ul");
  list.className = "search";
  for (const { entry: [page, anchor, title, prose, code] } of hits.slice(0, SHOWN)) {
    const link = document.createElement("a");
    link.href = `${page}.html?highlight=${encodeURIComponent(query)}#${anchor}`;
    link.append(title);
    const item = document.createElement("li");
    item.append(link);
    if (title !== top.get(page)) {
      const where = document.createElement("span");
      where.className = "search-page";
      where.append(top.get(page));
      item.append(" ", where);
    }
    const inProse = patterns.some(({ start }) => prose.search(start) >= 0);
    item.append(marked(excerpt(inProse || !code ? prose : code), document.createElement("p")));
    list.append(item);
  }
  if (!hits.length) place.replaceChildren(status);
  else place.replaceChildren(status, list);
})();

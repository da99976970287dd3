/* An extension of JupyterLab that needs no build: it gives the names and the year of a citation
   where jupyterlab-myst, which reads no bibliography, shows its key and "Citation Not Found".
   CITATIONS, in the line that tools/lab_citations.py writes above, is {key: [names, year, title]}. */
(() => {
  const MISSING = ".cite-group > [title='Citation Not Found']";
  const LOOK = `
    .cite-group > [data-cited] { color: inherit; font-size: 0; }
    [data-cited] > svg { display: none; }
    [data-cited]::before, [data-cited]::after { font-size: var(--jp-content-font-size1, 1rem); }
    [data-cited]::before { content: attr(data-cited); }`;

  function name(place) {
    const known = CITATIONS[place.textContent.trim()];
    if (!known) return;
    const [names, year, title] = known;
    const inside = place.parentElement.classList.contains("parenthetical");
    /* React owns the text, so it stays, and an attribute says what is seen instead. */
    place.dataset.cited = inside ? `${names}, ${year}` : `${names} (${year})`;
    place.title = title;
  }

  function watch() {
    const look = document.createElement("style");
    look.textContent = LOOK;
    document.head.append(look);
    const nameAll = () => document.querySelectorAll(MISSING).forEach(name);
    new MutationObserver(nameAll).observe(document.body, { childList: true, subtree: true });
    nameAll();
  }

  const plugin = { id: "cv-debugged-citations:names", autoStart: true, activate: watch };
  window._JUPYTERLAB = window._JUPYTERLAB || {};
  window._JUPYTERLAB["cv-debugged-citations"] = {
    init() {},
    get: async () => () => ({ __esModule: true, default: plugin }),
  };
})();

// What the search reads is fetched when a reader turns to it, so that it is there with the results.
(() => {
  let asked = location.protocol === "file:";
  document.addEventListener("focusin", (event) => {
    if (asked || !event.target.matches?.('form.bd-search input[name="q"]')) return;
    asked = true;
    const ahead = document.createElement("link");
    ahead.rel = "prefetch";
    ahead.href = `${document.documentElement.dataset.content_root}_static/sections.js`;
    document.head.append(ahead);
  });
})();

// The ledger folds its claims by lesson. A box shows those that hold some words; a link opens its fold.
document.addEventListener("DOMContentLoaded", () => {
  const folds = [...document.querySelectorAll("details.claims-of")];
  if (!folds.length) return;
  const claims = folds.map((fold) => [...fold.querySelectorAll("li")]);
  const label = document.createElement("label");
  label.className = "ledger-filter";
  const box = document.createElement("input");
  box.type = "search";
  const found = document.createElement("span");
  found.setAttribute("role", "status");
  label.append("Find claims that contain these words ", found, box);
  box.addEventListener("input", () => {
    const words = box.value.toLowerCase().split(/\s+/).filter(Boolean);
    let count = 0;
    folds.forEach((fold, at) => {
      const fit = claims[at].filter((claim) => words.every((word) => claim.textContent.toLowerCase().includes(word)));
      claims[at].forEach((claim) => { claim.hidden = !fit.includes(claim); });
      fold.open = words.length > 0 && fit.length > 0;
      fold.closest("section").hidden = fit.length === 0;
      count += fit.length;
    });
    found.textContent = !words.length ? "" : count ? `(${count})` : "(no claim holds these words)";
  });
  folds[0].closest("section").before(label);
  const reveal = () => {
    const target = document.getElementById(location.hash.slice(1));
    const fold = target?.closest("details.claims-of") ?? target?.querySelector?.("details.claims-of");
    if (!fold) return;
    fold.open = true;
    target.scrollIntoView();
  };
  addEventListener("hashchange", reveal);
  reveal();
});

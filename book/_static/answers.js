// Answers to Predict boxes are folded. One switch at the top opens them all, and is remembered.
document.addEventListener("DOMContentLoaded", () => {
  const answers = [...document.querySelectorAll("details.answer")];
  if (!answers.length) return;
  const KEY = "labs-answers-open";
  const remembered = () => { try { return localStorage.getItem(KEY) === "yes"; } catch { return false; } };
  const box = document.querySelector(".answer-switch input");
  const apply = () => answers.forEach((answer) => { answer.open = box.checked; });
  box.checked = remembered();
  apply();
  box.addEventListener("change", () => {
    try { localStorage.setItem(KEY, box.checked ? "yes" : "no"); } catch { /* a private window */ }
    apply();
  });
  // A link to something inside an answer opens it.
  const reveal = () => document.getElementById(location.hash.slice(1))?.closest("details")?.setAttribute("open", "");
  addEventListener("hashchange", reveal);
  reveal();
});

// MathJax is the heaviest file of the book: it is fetched when a formula comes near, when the page may be printed,
// or when the page has lain open for a while.
(() => {
  let drawn;
  window.drawFormulas = () => {
    if (!window.MathJax || drawn) return drawn;
    drawn = new Promise((resolve) => {
      const script = document.createElement("script");
      script.src = `${document.documentElement.dataset.content_root}_static/mathjax/formulas.js`;
      script.onload = () => MathJax.startup.promise.then(() => { document.dispatchEvent(new Event("formulas-drawn")); resolve(); });
      document.head.append(script);
    });
    return drawn;
  };
  const formulas = document.querySelectorAll(".math");
  if (!formulas.length || !window.MathJax) return;
  const near = new IntersectionObserver(
    (seen) => { if (seen.some((entry) => entry.isIntersecting)) { near.disconnect(); window.drawFormulas(); } },
    { rootMargin: "1000px" },
  );
  formulas.forEach((formula) => near.observe(formula));
  matchMedia("print").addEventListener("change", window.drawFormulas);
  addEventListener("beforeprint", window.drawFormulas);
  // A printer does not wait: whoever touches the page may print it next, and so may who only looks at it.
  for (const touch of ["pointermove", "pointerdown", "keydown", "scroll"]) addEventListener(touch, window.drawFormulas, { once: true, passive: true });
  const whenIdle = window.requestIdleCallback ?? setTimeout;  // Safari has no such callback
  if (!navigator.connection?.saveData) addEventListener("load", () => setTimeout(() => whenIdle(window.drawFormulas), 4000));
})();

// What is wider than its place scrolls sideways. The keyboard reaches it, and a screen reader hears what it
// is; the style sheet shows by a shadow on which side more of it lies.
document.addEventListener("DOMContentLoaded", () => {
  const KINDS = [
    ["mjx-container[display='true']", "Formula"],
    [".pst-scrollable-table-container, .output.text_html", "Table"],
    ["div.cell_output pre", "Output"],
    ["pre", "Code"],
  ];
  const ALL = KINDS.map(([selector]) => `.bd-article :is(${selector})`).join(", ");
  const judge = (element) => {
    const isWider = element.scrollWidth > element.clientWidth + 1;
    if (isWider) {
      if (element.tabIndex !== 0) element.tabIndex = 0;
      element.setAttribute("role", "group");
      element.setAttribute("aria-label", `${KINDS.find(([selector]) => element.matches(selector))[1]}, scrolls sideways`);
    } else {
      if (element.getAttribute("role") === "group") ["role", "aria-label"].forEach((name) => element.removeAttribute(name));
      if (element.tabIndex === 0) element.removeAttribute("tabindex");
    }
  };
  // The theme gives stops to what is a pixel too high, too, and says of none what it is.
  new MutationObserver((changes) => changes.map(({ target }) => target).filter((element) => element.matches(ALL)).forEach(judge))
    .observe(document.body, { subtree: true, attributeFilter: ["tabindex"] });
  // The size of a box changes with the page, and when the fold around it opens.
  const watcher = new ResizeObserver((changes) => changes.forEach(({ target }) => judge(target)));
  const watch = () => document.querySelectorAll(ALL).forEach((element) => watcher.observe(element));
  watch();
  document.addEventListener("formulas-drawn", watch);
});

// Look at the page that is open as a printer sees it, and return what would be missing or in the way.
(() => {
  const article = document.querySelector(".bd-article");
  const limit = article.getBoundingClientRect().right + 1;
  const name = (element) => `${element.tagName.toLowerCase()}.${element.getAttribute("class")} "${element.textContent.trim().slice(0, 40)}"`;
  const isShown = (element) => element.checkVisibility({ visibilityProperty: true }) && element.getBoundingClientRect().height > 0;
  const all = (selector) => [...article.querySelectorAll(selector)];
  const light = (colour) => {
    const [r, g, b, a = 1] = colour.match(/[\d.]+/g).map(Number);
    return a < 0.5 || Math.min(r, g, b) > 150;
  };
  return {
    cut: all("*")
      .filter((element) => isShown(element) && !element.closest("mjx-container g, mjx-assistive-mml"))
      .filter((element) => element.getBoundingClientRect().right > limit)
      .map(name),
    clipped: all("pre, .output, .pst-scrollable-table-container").filter((element) => element.scrollWidth > element.clientWidth + 1).map(name),
    folded: all("details:not(.tag_hide-input > details) > :not(summary)").filter((element) => !isShown(element) && !element.matches("div.cell.tag_hide-input:not(:has(.cell_output))")).map(name),
    plumbing: all(".tag_hide-input > details").filter(isShown).map(name),
    chrome: [...document.body.querySelectorAll("*")]
      .filter((element) => !article.contains(element) && !element.contains(article) && isShown(element))
      .map(name),
    buttons: all("button, .headerlink, .answer-switch, .ledger-filter").filter(isShown).map(name),
    dark: [document.documentElement, document.body, ...all("*")]
      .filter((element) => isShown(element) && !light(getComputedStyle(element).backgroundColor))
      .map(name),
    title: isShown(article.querySelector("h1")),
    captions: all("figure figcaption").filter((caption) => !isShown(caption)).map(name),
    pictures: all("figure.labs-figure").filter((figure) => ![...figure.querySelectorAll("img")].some(isShown)).map(name),
    slides: all(".labs-slide .frames").map((frames) => [...frames.children].map(isShown)),
  };
})();

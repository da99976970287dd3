// Look at what is wider than its place on the page that is open, and return what is wrong with it.
(() => {
  const article = document.querySelector(".bd-article") ?? document.body;
  const rgba = (colour) => {
    const numbers = colour.match(/[\d.]+/g).map(Number);
    return [...numbers.slice(0, 3), numbers[3] ?? 1];
  };
  const probe = document.createElement("i");
  document.body.append(probe);
  const resolved = (colour) => {
    probe.style.color = colour;
    return rgba(getComputedStyle(probe).color);
  };

  // The colour under an element, its own background on top.
  const ground = (element) => {
    const layers = [];
    for (let at = element; at; at = at.parentElement) {
      layers.push(rgba(getComputedStyle(at).backgroundColor));
      if (layers.at(-1)[3] === 1) break;
    }
    return layers.reverse().reduce((below, [r, g, b, a]) => [r, g, b].map((v, i) => a * v + (1 - a) * below[i]), [255, 255, 255]);
  };

  const name = (element) =>
    `${element.tagName.toLowerCase()}.${element.className} "${element.textContent.trim().slice(0, 40)}"`;
  const isShown = (element) => element.checkVisibility() && element.clientWidth > 0;
  const scrolls = (element) => ["auto", "scroll"].includes(getComputedStyle(element).overflowX);
  const all = [...article.querySelectorAll("*")].filter((element) => isShown(element) && !element.closest("svg, mjx-assistive-mml"));
  const wider = all.filter((element) => scrolls(element) && element.scrollWidth > element.clientWidth + 1);

  const hasSign = (element) => {
    const style = getComputedStyle(element);
    const images = (style.backgroundImage.match(/linear-gradient/g) ?? []).length;
    return images === 4 && style.backgroundAttachment === "local, local, scroll, scroll";
  };

  // The shadow is painted behind the content, so nothing opaque may lie on most of the right edge.
  const isCovered = (element) => {
    const frame = element.getBoundingClientRect();
    const edge = frame.left + element.clientLeft + element.clientWidth - 4;
    const height = [...element.querySelectorAll("*")]
      .filter((inside) => rgba(getComputedStyle(inside).backgroundColor)[3] > 0.5 || inside.tagName === "IMG")
      .map((inside) => inside.getBoundingClientRect())
      .filter((box) => box.left < edge && box.right > edge)
      .reduce((sum, box) => sum + box.height, 0);
    return height > frame.height / 3;
  };

  const isMismatched = (element) => {
    const said = resolved(getComputedStyle(element).getPropertyValue("--ground"));
    return ground(element).some((value, i) => Math.abs(value - said[i]) > 1.5);
  };

  const isReachable = (element) => element.tabIndex === 0 && element.getAttribute("aria-label") && element.getAttribute("role");

  const limit = document.documentElement.clientWidth + 1;
  const seen = {
    count: wider.length,
    kinds: [...new Set(wider.map((element) => element.getAttribute("aria-label")))],
    unsigned: wider.filter((element) => !hasSign(element) || isCovered(element)).map(name),
    mismatched: wider.filter(isMismatched).map(name),
    unreachable: wider.filter((element) => !isReachable(element)).map(name),
    idle: all.filter((element) => element.getAttribute("role") === "group" && element.tabIndex === 0 && !wider.includes(element))
      .map(name),
    lost: all
      .filter((element) => element.getBoundingClientRect().right > limit)
      .filter((element) => {
        for (let at = element; at && at !== article.parentElement; at = at.parentElement) if (scrolls(at)) return false;
        return true;
      })
      .map(name),
  };
  probe.remove();
  return seen;
})();

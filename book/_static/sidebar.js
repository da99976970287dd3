// The list of pages scrolls below the logo and the search. It stands where the reader left it, unless the
// entry of this page would be out of sight.
document.addEventListener("DOMContentLoaded", () => {
  const list = document.querySelector(".bd-docs-nav")?.parentElement;
  const here = [...(list?.querySelectorAll("a.current") ?? [])].at(-1);
  if (!here) return;
  const KEY = "labs-sidebar-top";
  const remembered = () => { try { return Number(sessionStorage.getItem(KEY)); } catch { return 0; } };
  const place = () => {
    list.scrollTop = remembered();
    const [frame, entry] = [list, here].map((element) => element.getBoundingClientRect());
    const isSeen = entry.top >= frame.top && entry.bottom <= frame.bottom;
    if (!isSeen) list.scrollTop += entry.top - frame.top - (frame.height - entry.height) / 2;
  };
  // On a phone the list has no size until the menu opens.
  let wasShown = false;
  new ResizeObserver(([{ contentRect }]) => {
    const isShown = contentRect.height > 0;
    if (isShown && !wasShown) place();
    wasShown = isShown;
  }).observe(list);
  addEventListener("pagehide", () => {
    try { sessionStorage.setItem(KEY, list.scrollTop); } catch { /* a private window */ }
  });
});

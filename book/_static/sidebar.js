// The list of pages scrolls below the logo and the search. It stands where the reader left it, unless the
// entry of this page would be out of sight.
document.addEventListener("DOMContentLoaded", () => {
  const list = document.querySelector(".bd-docs-nav")?.parentElement;
  const here = [...(list?.querySelectorAll("li.current > a") ?? [])].at(-1);
  if (!here) return;
  const KEY = "labs-sidebar-top";
  const remembered = () => { try { return Number(sessionStorage.getItem(KEY)); } catch { return 0; } };
  const place = () => {
    list.scrollTop = remembered();
    const [frame, entry] = [list, here].map((element) => element.getBoundingClientRect());
    const isSeen = entry.top >= frame.top && entry.bottom <= frame.bottom;
    if (!isSeen) list.scrollTop += entry.top - frame.top - (frame.height - entry.height) / 2;
  };
  place();
  // On a phone the menu moves the list into a dialog, where it starts anew.
  document.querySelector(".primary-toggle")?.addEventListener("click", () => requestAnimationFrame(place));
  addEventListener("pagehide", () => {
    try { sessionStorage.setItem(KEY, list.scrollTop); } catch { /* a private window */ }
  });
});

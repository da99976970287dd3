// What you have done, lesson by lesson: kept by this browser, shown on the course map, sent nowhere.
document.addEventListener("DOMContentLoaded", () => {
  const KEY = "labs-done";
  const PARTS = { lesson: "lesson done", hunt: "bug found" };
  const nameOf = (path) => path.match(/(lessons\/\d\d_\w+\/\d\d_\w+)\.html$/)?.[1];
  const read = () => {
    try {
      const marks = JSON.parse(localStorage.getItem(KEY) ?? "[]");
      return new Set(Array.isArray(marks) ? marks : []);
    } catch { return new Set(); }
  };
  const write = (mark, isDone) => {
    const marks = read();
    if (isDone) marks.add(mark); else marks.delete(mark);
    try { localStorage.setItem(KEY, JSON.stringify([...marks].sort())); } catch { return false; }
    return true;
  };

  const show = []; // what to bring up to date when a mark changes, here or in another tab
  const lesson = nameOf(location.pathname);
  if (lesson) {
    document.querySelectorAll(".lesson-marks input").forEach((box) => {
      const mark = `${lesson}#${box.dataset.part}`;
      box.addEventListener("change", () => { if (!write(mark, box.checked)) box.checked = false; });
      show.push((marks) => { box.checked = marks.has(mark); });
    });
  }

  const map = document.querySelector(".course-map");
  if (map) {
    const sum = document.createElement("p");
    sum.className = "marks-sum";
    const cards = [...map.querySelectorAll("li")].filter((card) => card.querySelector("a"));
    const places = cards.map((card) => {
      const place = document.createElement("span");
      place.className = "marks";
      card.append(place);
      return [nameOf(new URL(card.querySelector("a").href).pathname), place];
    });
    map.before(sum);
    show.push((marks) => {
      places.forEach(([name, place]) => {
        const done = Object.entries(PARTS).filter(([part]) => marks.has(`${name}#${part}`));
        place.textContent = done.map(([, said]) => `✓ ${said}`).join(" · ");
      });
      const count = (part) => places.filter(([name]) => marks.has(`${name}#${part}`)).length;
      const any = count("lesson") + count("hunt");
      sum.textContent = any
        ? `You marked ${count("lesson")} of ${places.length} lessons as done, and ${count("hunt")} of their bugs as found. This browser keeps the marks.`
        : "";
    });
  }

  const refresh = () => { const marks = read(); show.forEach((bring) => bring(marks)); };
  addEventListener("storage", refresh);
  addEventListener("pageshow", refresh); // also when the reader comes back with the back button
  refresh();
});

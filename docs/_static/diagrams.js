// Draws the diagrams of a page, and draws them anew when the reader changes light and dark.
const sources = new Map();

function isDark() {
  const chosen = document.body.dataset.theme;
  return chosen === "dark" ||
    (chosen !== "light" && matchMedia("(prefers-color-scheme: dark)").matches);
}

async function draw() {
  // At their own size: wide ones scroll.
  mermaid.initialize({
    startOnLoad: false,
    theme: isDark() ? "dark" : "neutral",
    flowchart: { useMaxWidth: false },
    sequence: { useMaxWidth: false },
  });
  for (const place of document.querySelectorAll("pre.mermaid")) {
    if (!sources.has(place)) sources.set(place, place.textContent);
    place.textContent = sources.get(place);
    place.removeAttribute("data-processed");
  }
  await mermaid.run({ querySelector: "pre.mermaid" });
}

document.addEventListener("DOMContentLoaded", () => {
  let dark = isDark();
  const redraw = () => {
    if (isDark() === dark) return;
    dark = isDark();
    draw();
  };
  draw();
  new MutationObserver(redraw).observe(document.body, { attributeFilter: ["data-theme"] });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
});

"use strict";
// Draws the figures of the page's data in the colours of its style sheet, again when they change.
(() => {
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const narrow = window.matchMedia("(max-width: 45rem)");
  const dark = window.matchMedia("(prefers-color-scheme: dark)");

  // None of these buttons leads to the network.
  function config() {
    return {
      displaylogo: false,
      responsive: true,
      displayModeBar: !narrow.matches,
      modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]],
    };
  }

  function color(name) {
    return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
  }

  function colored(trace) {
    if (trace.type === "waterfall") {
      const [seen, taken, rest] = ["series-0", "series-1", "series-6"].map(color);
      return {
        ...trace,
        increasing: { marker: { color: rest } },
        decreasing: { marker: { color: taken } },
        totals: { marker: { color: seen } },
        connector: { line: { color: color("line"), width: 1 } },
      };
    }
    const own = color(`series-${trace.meta % 8}`);
    if (trace.type === "bar") return { ...trace, marker: { color: own } };
    return { ...trace, line: { ...trace.line, color: own }, fillcolor: `${own}${trace.stackgroup ? "e6" : "60"}` };
  }

  function axis(of) {
    const lines = { gridcolor: color("line"), zerolinecolor: color("line"), linecolor: color("line") };
    const found = { ...of, ...lines, automargin: true, fixedrange: narrow.matches };
    // The names stand in the table, by the same numbers.
    if (narrow.matches && of.ticktext) found.ticktext = of.tickvals;
    return found;
  }

  function laidOut(layout) {
    return {
      ...layout,
      paper_bgcolor: color("back"),
      plot_bgcolor: color("back"),
      font: { color: color("text"), size: narrow.matches ? 11 : 12, family: "system-ui, sans-serif" },
      margin: { l: 8, r: 16, t: layout.showlegend ? 76 : 32, b: 48 },
      legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0, traceorder: "normal" },
      hoverlabel: { bgcolor: color("panel"), bordercolor: color("line"), font: { color: color("text") } },
      xaxis: axis(layout.xaxis),
      yaxis: axis(layout.yaxis),
    };
  }

  function draw() {
    for (const [id, { data, layout }] of Object.entries(figures)) {
      Plotly.react(document.getElementById(id), data.map(colored), laidOut(layout), config());
    }
  }

  draw();
  for (const query of [narrow, dark]) query.addEventListener("change", draw);
  // A sheet is narrower than most windows, and there is no time to measure it.
  const relayout = (size) => () => Object.keys(figures).forEach((id) => Plotly.relayout(id, size));
  window.addEventListener("beforeprint", relayout({ width: 640 }));
  window.addEventListener("afterprint", relayout({ autosize: true }));
})();

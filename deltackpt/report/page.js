"use strict";

const charts = JSON.parse(document.getElementById("charts").textContent);

/* Text and grid of a chart follow the page, which follows the reader's settings and the printer. */
function ground() {
  const style = getComputedStyle(document.documentElement);
  const text = style.getPropertyValue("--text").trim();
  const line = style.getPropertyValue("--line").trim();
  const card = style.getPropertyValue("--card").trim();
  return { text, line, card };
}

const narrow = matchMedia("(max-width: 600px)");

/* Labels of steps would lie on one another. */
function fewer(axis) {
  if (axis.type !== "category" || !axis.tickvals) return axis;
  const every = Math.ceil(axis.tickvals.length / 3);
  return { ...axis, tickvals: axis.tickvals.filter((_, place) => place % every === 0) };
}

function dressed(layout) {
  const { text, line, card } = ground();
  const found = { ...layout, font: { ...layout.font, color: text } };
  found.hoverlabel = { bgcolor: card, bordercolor: line, font: { color: text, size: 12 } };
  for (const name of Object.keys(found)) {
    if (/^[xy]axis/.test(name)) {
      found[name] = { ...found[name], gridcolor: line, zerolinecolor: line, linecolor: line, tickcolor: line };
    }
  }
  if (narrow.matches) {
    found.margin = { ...found.margin, l: Math.min(found.margin.l, 48), r: found.yaxis2 ? 36 : 8 };
    found.xaxis = fewer(found.xaxis);
  }
  return found;
}

function draw() {
  for (const chart of charts) {
    Plotly.react(chart.name, chart.data, dressed(chart.layout), { displayModeBar: false, responsive: true });
  }
}

draw();
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
narrow.addEventListener("change", draw);
addEventListener("beforeprint", draw);
addEventListener("afterprint", draw);

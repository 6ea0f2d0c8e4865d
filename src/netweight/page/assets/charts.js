// Pictures, all by one library, in the page's colours. Each has a label, and a table behind it.

import { make, opening, plainTable, scrolled } from "./elements.js";
import { scaleOf, shownValue } from "./format.js";
import { say } from "./text.js";

const SEQUENCE = ["#440154", "#414487", "#2a788e", "#22a884", "#7ad151", "#fde725"];
const AROUND = ["#2166ac", "#92c5de", "#f7f7f7", "#f4a582", "#b2182b"];

/** A colour of the page's style. */
export function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

let charts = [];

/** Give back what pictures hold that are no longer on the page. */
function dropGone() {
  const gone = charts.filter((chart) => chart.made && !chart.holder.isConnected);
  for (const chart of gone) chart.made.dispose();
  charts = charts.filter((chart) => !gone.includes(chart));
}

/** Draw all pictures again, after a change of width. */
export function redrawCharts() {
  dropGone();
  for (const chart of charts) chart.draw();
}

/** While it is printed, images in place of the canvases: paper does not show these. */
export function chartsOnPaper(printed) {
  for (const chart of charts.filter((one) => one.made)) {
    chart.holder.nextElementSibling?.matches("img.print") && chart.holder.nextElementSibling.remove();
    if (printed) chart.holder.after(make("img", { class: "print", src: chart.made.getDataURL({ pixelRatio: 2 }), alt: chart.holder.getAttribute("aria-label") }));
  }
}

/** A picture of `height` pixels that `option()` describes; `clicked` gets what was clicked. */
export function chart(label, height, option, clicked) {
  const holder = make("div", { class: "chart", role: "img", "aria-label": label });
  holder.style.height = `${height}px`;
  const own = { holder, made: null, draw };
  function draw() {
    if (!holder.isConnected) return;
    if (own.made === null) {
      own.made = globalThis.vendor.echarts.init(holder, null, { renderer: "canvas" });
      if (clicked) own.made.on("click", clicked);
    }
    own.made.resize();
    const text = { color: colour("--ink"), fontFamily: "inherit" };
    own.made.setOption({ animation: false, textStyle: text, ...option() }, true);
  }
  dropGone();
  charts.push(own);
  requestAnimationFrame(draw);
  return holder;
}

function axis(data, more = {}) {
  const lines = { lineStyle: { color: colour("--line") } };
  return { type: "category", data, axisLine: lines, axisLabel: { color: colour("--ink"), ...more }, axisTick: { show: false } };
}

/** Cells {x, y, value, count, rows} in colours, of a scale as `scaleOf` has it; `picked` gets the cell. */
export function heatmap(label, columns, lines, cells, picked, scale = scaleOf(cells.map((cell) => cell.value))) {
  const at = (value) => (scale.kind === "orders" ? Math.log10(value) : value);
  const tip = (cell) =>
    `${lines[cell.y]} · ${columns[cell.x]}: ${shownValue(cell.value)}${cell.count > 1 ? ` (${say("several", cell.count)})` : ""}`;
  const height = 130 + 18 * lines.length;
  const ends = (value) => shownValue(scale.kind === "orders" ? 10 ** value : value);
  const option = () => ({
    tooltip: { renderMode: "richText", formatter: (item) => tip(cells[item.dataIndex]) },
    grid: { left: 8, right: 8, top: 8, bottom: 60, containLabel: true },
    xAxis: axis(columns, { rotate: 40 }),
    yAxis: { ...axis(lines), inverse: true },
    visualMap: {
      min: scale.low, max: scale.high, calculable: false, orient: "horizontal", left: "center", bottom: 0, itemWidth: 12,
      text: [ends(scale.high), ends(scale.low)],
      textStyle: { color: colour("--ink") },
      inRange: { color: scale.kind === "around zero" ? AROUND : SEQUENCE },
    },
    series: [{
      type: "heatmap",
      progressive: 0,
      data: cells.map((cell) => ({ value: [cell.x, cell.y, cell.value === null ? null : at(cell.value)] })),
      itemStyle: { borderColor: colour("--paper"), borderWidth: 1 },
      emphasis: { itemStyle: { borderColor: colour("--ink"), borderWidth: 2 } },
    }],
  });
  const table = () => {
    const known = new Map(cells.map((cell) => [`${cell.x} ${cell.y}`, cell]));
    const rows = lines.map((line, y) => [line, ...columns.map((_, x) => shownValue(known.get(`${x} ${y}`)?.value ?? null))]);
    return scrolled(plainTable([say("name"), ...columns], rows));
  };
  return make(
    "figure",
    {},
    chart(label, height, option, picked && ((item) => picked(cells[item.dataIndex]))),
    opening(say("values"), table),
  );
}

/** Bars, one for each name. */
export function bars(label, names, values) {
  const option = () => ({
    tooltip: { renderMode: "richText", trigger: "axis", formatter: ([item]) => `${names[item.dataIndex]}: ${shownValue(values[item.dataIndex])}` },
    grid: { left: 8, right: 16, top: 8, bottom: 8, containLabel: true },
    xAxis: axis(names, { interval: 0, rotate: names.length > 6 ? 40 : 0 }),
    yAxis: { type: "value", axisLabel: { color: colour("--ink") }, splitLine: { lineStyle: { color: colour("--line") } } },
    series: [{ type: "bar", data: values, itemStyle: { color: colour("--accent") } }],
  });
  const table = () => plainTable([say("name"), say("value")], names.map((name, at) => [name, shownValue(values[at])]));
  return make("figure", {}, chart(label, 240, option), opening(say("values"), table));
}

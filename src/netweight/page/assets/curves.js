// Pictures over number axes: a histogram, singular values with their fit, one metric against another.

import { chart, colour } from "./charts.js";
import { make, opening, plainTable, scrolled } from "./elements.js";
import { scaleOf, shownValue } from "./format.js";
import { say } from "./text.js";

const POINTS_LISTED = 2000;

function numberAxis(type, more = {}) {
  return {
    type, axisLabel: { color: colour("--ink"), formatter: (value) => shownValue(Number(value.toPrecision(3))), hideOverlap: true }, axisLine: { lineStyle: { color: colour("--line") } },
    splitLine: { lineStyle: { color: colour("--line") } }, minorSplitLine: { show: false }, nameLocation: "middle", nameTextStyle: { color: colour("--ink") }, ...more,
  };
}

const GRID = { left: 16, right: 24, top: 12, bottom: 32, containLabel: true };

/** Elements between edges, as a density; what lies beyond five standard deviations is said in words. */
export function histogram(edges, counts) {
  const label = say("histogram");
  if (edges[0] === edges.at(-1)) return make("p", { text: say("allEqual", counts[0], shownValue(edges[0])) });
  const total = counts.reduce((sum, count) => sum + count, 0);
  const widths = counts.map((_, at) => edges[at + 1] - edges[at]);
  const density = counts.map((count, at) => count / widths[at] / total);
  const usual = [...widths].sort((a, b) => a - b)[widths.length >> 1];
  const tail = (at) => counts.length > 4 && widths[at] > 2 * usual;
  const first = tail(0) ? 1 : 0;
  const last = counts.length - (tail(counts.length - 1) ? 1 : 0);
  const least = Math.min(...density.filter((value) => value > 0));
  const points = density.slice(first, last).map((value, at) => [edges[first + at], value || null]);
  points.push([edges[last], density[last - 1] || null]);
  const option = () => ({
    tooltip: {
      renderMode: "richText", trigger: "axis",
      formatter: ([item]) => {
        const at = Math.min(first + item.dataIndex, last - 1);
        return `${shownValue(edges[at])} … ${shownValue(edges[at + 1])}: ${counts[at]}`;
      },
    },
    grid: GRID,
    xAxis: numberAxis("value", { min: edges[first], max: edges[last], name: say("valueAxis"), nameGap: 24 }),
    yAxis: numberAxis("log", { min: least / 2 }),
    series: [{ type: "line", step: "end", data: points, symbol: "none", lineStyle: { color: colour("--accent"), width: 1 }, areaStyle: { color: colour("--accent"), opacity: 0.5, origin: "start" } }],
  });
  const beyond = [
    first ? say("below", counts[0], shownValue(edges[first]), shownValue(edges[0])) : null,
    last < counts.length ? say("above", counts.at(-1), shownValue(edges[last]), shownValue(edges.at(-1))) : null,
  ].filter((text) => text);
  const table = () => plainTable([say("from"), say("to"), say("elements")], counts.map((count, at) => [shownValue(edges[at]), shownValue(edges[at + 1]), String(count)]));
  return make("figure", {}, chart(label, 240, option), beyond.length ? make("p", { class: "doc", text: beyond.join("; ") }) : null, opening(say("values"), table));
}

/** The line of a power law of sigma^2, which `count` values from `xmin` on follow: [number, value] of both its ends. */
export function lawLine(xmin, alpha, count) {
  if (!(xmin > 0) || !(alpha > 1) || !(count > 1)) return null;
  const low = Math.sqrt(xmin);
  return [[1, low * count ** (0.5 / (alpha - 1))], [count, low]];
}

/** Singular values by their numbers, ranks as upright lines, and the fit of the tail. */
export function spectrum(ranks, values, marks, law) {
  const label = say("spectrum");
  const points = ranks.map((rank, at) => [rank, values[at]]).filter(([, value]) => value > 0);
  if (points.length < 2) return null;
  const ends = [points.at(-1)[1], points[0][1]];
  const colours = ["#d29922", "#a371f7", "#3fb950"];
  const series = [{ type: "line", name: label, data: points, symbol: "circle", symbolSize: 4, itemStyle: { color: colour("--accent") }, lineStyle: { color: colour("--accent"), width: 1.5 } }];
  marks.forEach(([name, rank], at) => {
    series.push({ type: "line", name: `${name}: ${rank}`, data: [[rank, ends[0]], [rank, ends[1]]], symbol: "none", lineStyle: { color: colours[at % 3], type: "dashed", width: 1.5 } });
  });
  if (law) series.push({ type: "line", name: say("fit"), data: law, symbol: "none", clip: true, lineStyle: { color: "#f85149", width: 2 } });
  const option = () => ({
    tooltip: { renderMode: "richText", trigger: "item", formatter: (item) => (item.seriesIndex ? item.seriesName : `${item.value[0]}: ${shownValue(item.value[1])}`) },
    grid: GRID,
    xAxis: numberAxis("log", { min: 1, max: ranks.at(-1), name: say("number"), nameGap: 24 }),
    yAxis: numberAxis("log", { min: ends[0], max: ends[1] }),
    series,
  });
  const key = series.slice(1).map((one) => make("span", { class: "key" }, make("i", { class: "swatch", "data-colour": one.lineStyle.color }), make("span", { text: one.name })));
  for (const item of key) item.firstChild.style.background = item.firstChild.dataset.colour;
  const table = () => plainTable([say("number"), say("value")], ranks.map((rank, at) => [String(rank), shownValue(values[at])]));
  return make("figure", {}, chart(label, 260, option), make("p", { class: "bar" }, ...key), opening(say("values"), table));
}

/** Rows of a section as points of two metrics; `picked` gets the row. */
export function scatter(section, rows, x, y, picked) {
  const [xs, ys] = [section.cells[x], section.cells[y]];
  const known = rows.filter((row) => xs[row] !== null && ys[row] !== null);
  const names = section.cells[section.name_column];
  const axisOf = (name, values, gap) => {
    const scale = scaleOf(known.map((row) => values[row]));
    return numberAxis(scale.kind === "orders" ? "log" : "value", { scale: true, name, nameGap: gap });
  };
  const option = () => ({
    tooltip: { renderMode: "richText", formatter: (item) => `${names[known[item.dataIndex]].slice(0, 200)}\n${x}: ${shownValue(item.value[0])}\n${y}: ${shownValue(item.value[1])}` },
    grid: { ...GRID, left: 40 },
    xAxis: axisOf(x, xs, 24),
    yAxis: axisOf(y, ys, 48),
    series: [{ type: "scatter", symbolSize: 7, itemStyle: { color: colour("--accent"), opacity: 0.6 }, data: known.map((row) => [xs[row], ys[row]]) }],
  });
  const table = () => scrolled(plainTable([say("name"), x, y], known.slice(0, POINTS_LISTED).map((row) => [names[row], shownValue(xs[row]), shownValue(ys[row])])));
  const title = known.length > POINTS_LISTED ? `${say("values")} (${POINTS_LISTED} / ${known.length})` : say("values");
  return make("figure", {}, chart(`${y} / ${x}`, 320, option, (item) => picked(known[item.dataIndex])), opening(title, table));
}

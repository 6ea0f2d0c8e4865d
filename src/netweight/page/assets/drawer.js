// The drawer of one row: every column with its unit and definition, quantiles as a picture, the rows of its layer.

import { bars } from "./charts.js";
import { histogram, lawLine, spectrum } from "./curves.js";
import { make, plainTable, scrolled } from "./elements.js";
import { shownValue } from "./format.js";
import { say } from "./text.js";

const QUANTILE = /(?:^|\.)q(\d{1,3})$/;
const SPECTRA = ["singular_values", "spectral.top_singular_values"];

const SHARES = [0, 0.25, 0.5, 0.75, 1];
const LISTED = 200;

/** Open what shares a cell of the map, as experts do: first how `metric` is distributed, then each by its value. */
export function openCell(section, rows, metric, label) {
  if (rows.length === 1) {
    openDrawer(section, rows[0], rows);
    return;
  }
  document.querySelector("dialog")?.remove();
  const values = section.cells[metric];
  const sorted = rows.filter((row) => values[row] !== null).sort((a, b) => values[a] - values[b]);
  const quantiles = SHARES.map((share) => values[sorted[Math.round(share * (sorted.length - 1))]]);
  const box = make("dialog", { "aria-label": label });
  const close = make("button", { type: "button", text: say("close"), click: () => box.close() });
  const items = [...sorted].reverse().slice(0, LISTED).map((row) =>
    make("li", {}, make("button", {
      type: "button", class: "link", text: section.cells[section.name_column][row], click: () => openDrawer(section, row, [...sorted].reverse()),
    }), make("span", { text: ` ${shownValue(values[row])}` })),
  );
  box.append(
    make("header", {}, make("h2", { text: label }), make("div", { class: "bar" }, close)),
    make("p", { class: "doc", text: `${metric}, ${say("several", sorted.length)}: ${shownValue(quantiles[2])}` }),
    bars(metric, SHARES.map((share) => `${100 * share}%`), quantiles),
    make("ol", {}, ...items),
  );
  box.addEventListener("close", () => box.remove());
  document.body.append(box);
  box.showModal();
}

/** Open the drawer on `row`, one of `rows`, through which its buttons go. */
export function openDrawer(section, row, rows) {
  document.querySelector("dialog")?.remove();
  const name = section.cells[section.name_column][row];
  const box = make("dialog", { "aria-label": name });
  const go = (step) => {
    const at = rows.indexOf(row) + step;
    if (at >= 0 && at < rows.length) openDrawer(section, rows[at], rows);
  };
  const buttons = make(
    "div",
    { class: "bar" },
    make("button", { type: "button", text: say("previous"), disabled: rows.indexOf(row) <= 0, click: () => go(-1) }),
    make("button", { type: "button", text: say("next"), disabled: rows.indexOf(row) >= rows.length - 1, click: () => go(1) }),
    make("button", { type: "button", text: say("close"), click: () => box.close() }),
  );
  box.append(make("header", {}, make("h2", { text: name }), buttons));
  box.append(...picturesOf(section, row));
  const quantiles = section.columns.filter((column) => QUANTILE.test(column.name) && section.cells[column.name][row] !== null);
  if (quantiles.length > 1) {
    const labels = quantiles.map((column) => `${Number(QUANTILE.exec(column.name)[1])}%`);
    box.append(make("h3", { text: say("quantiles") }), bars(say("quantiles"), labels, quantiles.map((column) => section.cells[column.name][row])));
  }
  for (const name of SPECTRA) {
    const text = section.pictures["singular_values.ranks"]?.(row)?.length > 1 ? null : section.cells[name]?.[row] ?? null;
    const values = text === null ? [] : JSON.parse(text);
    if (values.length > 1) box.append(make("h3", { text: name }), bars(name, values.map((_, at) => String(at + 1)), values));
  }
  const known = section.columns.filter((column) => section.cells[column.name][row] !== null);
  const lines = known.map((column) => {
    const value = section.cells[column.name][row];
    return [column.name, shownValue(value), column.unit, column.doc];
  });
  const table = plainTable([say("column"), say("value"), say("unit"), say("definition")], lines);
  known.forEach((column, at) => {
    table.tBodies[0].rows[at].cells[1].title = String(section.cells[column.name][row]);
    table.tBodies[0].rows[at].dataset.column = column.name;
  });
  box.append(scrolled(table));
  const layer = section.cells.layer?.[row] ?? null;
  if (layer !== null) {
    const others = neighbours(section, row, layer);
    if (others.length) {
      const links = others.map((other) =>
        make("li", {}, make("button", {
          type: "button", class: "link", text: section.cells[section.name_column][other], click: () => openDrawer(section, other, rows),
        })),
      );
      box.append(make("h3", { text: say("neighbours") }), make("ul", {}, ...links));
    }
  }
  box.addEventListener("close", () => box.remove());
  document.body.append(box);
  box.showModal();
}

const RANKS = ["svd_90_percent_rank", "effective_rank", "actual_rank"];

/** The histogram and the singular values of a row, where it has them. */
function picturesOf(section, row) {
  const list = (name) => section.pictures[name]?.(row) ?? [];
  const cell = (name) => section.cells[name]?.[row] ?? null;
  const made = [];
  const edges = list("histogram.edges");
  if (edges.length > 1) made.push(make("h3", { text: say("histogram") }), histogram(edges, list("histogram.counts")));
  const ranks = list("singular_values.ranks");
  if (ranks.length > 1) {
    const values = list("singular_values.values");
    const marks = RANKS.map((name) => [name, cell(`spectral.${name}`)]).filter(([, rank]) => rank !== null && rank >= 1);
    const drawn = spectrum(ranks, values, marks, lawLine(cell("tail.xmin"), cell("tail.alpha"), cell("tail.num_pl_spikes")));
    if (drawn) made.push(make("h3", { text: say("spectrum") }), drawn);
  }
  return made;
}

const MOST = 60;

function neighbours(section, row, layer) {
  const same = (other) => !section.cells.model || section.cells.model[other] === section.cells.model[row];
  const found = [];
  for (let other = 0; other < section.count && found.length < MOST; other++) {
    if (other !== row && section.cells.layer[other] === layer && same(other)) found.push(other);
  }
  return found;
}

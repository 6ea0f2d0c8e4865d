// One result: what it is of, the map of layers and roles, what belongs to its kind, and all rows.

import { bars, heatmap } from "./charts.js";
import { scatter } from "./curves.js";
import { openCell, openDrawer } from "./drawer.js";
import { choice, make, opening, plainTable, scrolled } from "./elements.js";
import { median } from "./format.js";
import { rowsTable } from "./table.js";
import { say, title } from "./text.js";
import { treePart } from "./tree.js";

const FIRST = 12;
const LONG = 30; // lines of a table that is closed at first
const COSINES = { kind: "around zero", low: -1, high: 1 };

/** The cells of a map: a line for each layer of each tower, a column for each role, the middle of what shares a cell.
 * `lines` are {tower, layer}, those without a layer last. */
export function mapCells(section, rows, metric) {
  const { layer, role } = section.cells;
  const tower = (row) => section.stacks?.[row] ?? "";
  const place = (row) => (layer[row] === null ? "" : `${tower(row)} ${layer[row]}`);
  const roles = [...new Set(rows.map((row) => role[row]))];
  const towers = [...new Set(rows.map(tower))];
  const found = new Map(rows.map((row) => [place(row), { tower: tower(row), layer: layer[row] }]));
  const order = ({ tower: name, layer: number }) => (number === null ? [towers.length, 0] : [towers.indexOf(name), number]);
  const sorted = [...found].sort(([, a], [, b]) => order(a)[0] - order(b)[0] || order(a)[1] - order(b)[1]);
  const lineOf = new Map(sorted.map(([key], at) => [key, at]));
  const columnOf = new Map(roles.map((name, at) => [name, at]));
  const held = new Map();
  for (const row of rows) {
    const key = `${columnOf.get(role[row])} ${lineOf.get(place(row))}`;
    if (!held.has(key)) held.set(key, []);
    held.get(key).push(row);
  }
  const cells = [...held].map(([key, own]) => {
    const [x, y] = key.split(" ").map(Number);
    const values = own.map((row) => section.cells[metric][row]).filter((value) => value !== null);
    return { x, y, value: median(values), count: values.length, rows: own };
  });
  return { roles, lines: sorted.map(([, line]) => line), cells: cells.filter((cell) => cell.value !== null) };
}

function findingsList(section) {
  const rows = new Map(section.cells[section.name_column].map((name, row) => [name, row]));
  const all = [...Array(section.count).keys()];
  const line = ([level, name, what, advice]) => {
    const row = rows.get(name);
    const place = row === undefined ? make("span", { text: name }) : make("button", { type: "button", class: "link", text: name, click: () => openDrawer(section, row, all) });
    return make("li", { class: `finding ${["critical", "warning"].includes(level) ? level : "info"}` }, make("b", { text: `${level} ` }), place, make("span", { text: ` ${what}; ${advice}` }));
  };
  const list = (findings) => make("ul", { class: "notes" }, ...findings.map(line));
  const first = section.findings.slice(0, FIRST).filter(([level]) => level !== "info"); // the worst come first
  const rest = section.findings.slice(first.length);
  return make("div", {}, list(first), rest.length ? opening(`+ ${rest.length}`, () => list(rest)) : null);
}

function about(section) {
  const long = section.card.filter(([, value]) => value.includes("\n"));
  const parts = [plainTable([say("what"), say("value")], section.card.filter((line) => !long.includes(line)))];
  parts.push(...long.map(([what, value]) => opening(what, () => make("pre", { text: value }))));
  if (section.notes.length) {
    parts.push(make("h3", { text: say("notes") }), make("ul", { class: "notes" }, ...section.notes.map((text) => make("li", { text }))));
  }
  if (section.findings.length) parts.push(make("h3", { text: say("findings") }), findingsList(section));
  if (section.skipped.length) {
    parts.push(opening(`${say("leftOut")} (${section.skipped.length})`, () => scrolled(plainTable([say("name"), say("why")], section.skipped))));
  }
  return make("section", {}, make("h2", { text: say("about") }), ...parts);
}

/** One metric against another, each chosen from a list; closed where the result names no pair. */
function twoMetrics(section, rows, state, show) {
  state.pair ??= section.against.length ? [...section.against] : section.metrics.slice(0, 2);
  const [x, y] = state.pair;
  const pick = (at) => (name) => {
    state.pair[at] = name;
    state.open = true;
    show();
  };
  const content = () =>
    make("div", {}, make("div", { class: "bar" }, choice(say("across"), section.metrics, x, pick(0)), choice(say("upwards"), section.metrics, y, pick(1))),
      scatter(section, rows, x, y, (row) => openDrawer(section, row, rows)));
  if (section.against.length || state.open) return [make("h2", { text: say("pair") }), content()];
  return [opening(say("pair"), content)];
}

/** The element of a section. */
export function sectionPart(section) {
  const state = { metric: section.metrics[0], model: section.models[0] ?? null };
  const holder = make("div", {});
  const rowsOf = () => {
    const rows = [...Array(section.count).keys()];
    return state.model === null ? rows : rows.filter((row) => section.cells.model[row] === state.model);
  };

  function show() {
    const rows = rowsOf();
    const parts = [];
    if (section.models.length > 1) {
      parts.push(choice(say("model"), section.models, state.model, (model) => {
        state.model = model;
        show();
      }));
    }
    if (section.metrics.length && rows.length) {
      const { roles, lines, cells } = mapCells(section, rows, state.metric);
      const column = section.columns.find((one) => one.name === state.metric);
      const labels = lines.map((line) => (line.layer === null ? say("outside") : `${line.tower || say("layer")} ${line.layer}`));
      parts.push(
        make("h2", { text: say("heatmap") }),
        choice(say("metric"), section.metrics, state.metric, (metric) => {
          state.metric = metric;
          show();
        }),
        make("p", { class: "doc", text: `${state.metric}: ${column.doc}${column.unit ? ` [${column.unit}]` : ""}` }),
        heatmap(`${say("heatmap")}: ${state.metric}`, roles, labels, cells, (cell) =>
          openCell(section, cell.rows, state.metric, `${labels[cell.y]} · ${roles[cell.x]}`),
        ),
      );
    }
    if (section.metrics.length > 1 && rows.length > 1) parts.push(...twoMetrics(section, rows, state, show));
    if (section.tree.length) parts.push(make("h2", { text: say("tree") }), treePart(section.tree));
    const own = (one) => one.model === null || one.model === state.model;
    for (const one of section.bars.filter(own)) {
      parts.push(make("h2", { text: title(one.title) }), bars(title(one.title), one.names, one.values));
    }
    if (section.square && section.square.names.length > 1) {
      const { names, values } = section.square;
      const cells = values.flatMap((line, y) => line.map((value, x) => ({ x, y, value, count: 1 })));
      const known = cells.filter((cell) => cell.value !== null);
      const label = title(section.square.title);
      parts.push(make("h2", { text: label }), heatmap(label, names, names, known, null, COSINES));
    }
    for (const one of section.tables.filter(own)) {
      const table = () => scrolled(plainTable(one.headings, one.rows));
      parts.push(one.rows.length > LONG ? opening(`${title(one.title)} (${one.rows.length})`, table) : make("div", {}, make("h2", { text: title(one.title) }), table()));
    }
    if (rows.length) parts.push(make("h2", { text: say("table") }), rowsTable(section, rows));
    holder.replaceChildren(...parts);
  }

  show();
  return make("article", {}, make("h1", { text: section.title }), about(section), holder);
}

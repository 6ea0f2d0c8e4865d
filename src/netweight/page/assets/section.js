// One result: what it is of, the map of layers and roles, what belongs to its kind, and all rows.

import { bars, heatmap } from "./charts.js";
import { openCell, openDrawer } from "./drawer.js";
import { choice, make, opening, plainTable } from "./elements.js";
import { median } from "./format.js";
import { rowsTable } from "./table.js";
import { say } from "./text.js";

const FIRST = 12;
const COSINES = { kind: "around zero", low: -1, high: 1 };

/** The cells of a map: a line for each layer, a column for each role, the middle of what shares a cell. */
export function mapCells(section, rows, metric) {
  const { layer, role } = section.cells;
  const roles = [...new Set(rows.map((row) => role[row]))];
  const numbered = [...new Set(rows.map((row) => layer[row]).filter((value) => value !== null))].sort((a, b) => a - b);
  const lines = [...numbered, ...(rows.some((row) => layer[row] === null) ? [null] : [])];
  const held = new Map();
  for (const row of rows) {
    const key = `${roles.indexOf(role[row])} ${lines.indexOf(layer[row])}`;
    if (!held.has(key)) held.set(key, []);
    held.get(key).push(row);
  }
  const cells = [...held].map(([key, own]) => {
    const [x, y] = key.split(" ").map(Number);
    const values = own.map((row) => section.cells[metric][row]).filter((value) => value !== null);
    return { x, y, value: median(values), count: values.length, rows: own };
  });
  return { roles, lines, cells: cells.filter((cell) => cell.value !== null) };
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
  const rest = section.findings.slice(FIRST);
  return make("div", {}, list(section.findings.slice(0, FIRST)), rest.length ? opening(`+ ${rest.length}`, () => list(rest)) : null);
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
    parts.push(opening(`${say("leftOut")} (${section.skipped.length})`, () => make("div", { class: "wide" }, plainTable([say("name"), say("why")], section.skipped))));
  }
  return make("section", {}, make("h2", { text: say("about") }), ...parts);
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
      const labels = lines.map((line) => (line === null ? say("outside") : `${say("layer")} ${line}`));
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
    const groups = section.groups.find((one) => one.model === state.model);
    if (groups) {
      const title = say(section.kind === "merge" ? "norms" : "groups");
      parts.push(make("h2", { text: title }), bars(title, groups.names, groups.values));
    }
    if (section.cosines && section.cosines.names.length > 1) {
      const { names, values } = section.cosines;
      const cells = values.flatMap((line, y) => line.map((value, x) => ({ x, y, value, count: 1 })));
      const known = cells.filter((cell) => cell.value !== null);
      parts.push(make("h2", { text: say("cosines") }), heatmap(say("cosines"), names, names, known, null, COSINES));
    }
    parts.push(make("h2", { text: say("table") }), rowsTable(section, rows));
    holder.replaceChildren(...parts);
  }

  show();
  return make("article", {}, make("h1", { text: section.title }), about(section), holder);
}

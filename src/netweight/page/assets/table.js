// The table of all rows: only what can be seen is in the page, however many there are.

import { asText } from "./data.js";
import { openDrawer } from "./drawer.js";
import { make } from "./elements.js";
import { shownValue } from "./format.js";
import { say } from "./text.js";

const HEIGHT = 30;

/** Rows sorted by a column, those without a value last. */
export function sortedRows(section, rows, name, down) {
  const cells = section.cells[name];
  const sign = down ? -1 : 1;
  return [...rows].sort((a, b) => {
    const x = cells[a];
    const y = cells[b];
    if (x === null || y === null) return (x === null) - (y === null) || a - b;
    const order = typeof x === "number" && typeof y === "number" ? x - y : String(x) < String(y) ? -1 : Number(String(x) > String(y));
    return sign * order || a - b;
  });
}

/** The table of `rows` of a section. */
export function rowsTable(section, rows) {
  const state = { shown: new Set(section.shown), by: section.order, down: section.order !== null, words: "" };
  const count = make("span", { class: "count", role: "status" });
  const head = make("div", { class: "line head", role: "row" });
  const body = make("div", { class: "lines", role: "rowgroup" });
  const scroller = make(
    "div",
    { class: "table", role: "table", tabindex: "0", "aria-label": say("table") },
    make("div", { role: "rowgroup", class: "heads" }, head),
    body,
  );
  let listed = rows;
  const order = [...section.shown, ...section.columns.map((column) => column.name).filter((name) => !section.shown.includes(name))];
  const names = () => order.filter((name) => state.shown.has(name));
  const width = (name) => (name === section.name_column ? "minmax(18rem, 3fr)" : `minmax(${Math.max(6, 0.6 * name.length)}rem, 1fr)`);

  const virtual = new globalThis.vendor.Virtualizer({
    count: 0,
    getScrollElement: () => scroller,
    estimateSize: () => HEIGHT,
    overscan: 10,
    scrollToFn: globalThis.vendor.elementScroll,
    observeElementRect: globalThis.vendor.observeElementRect,
    observeElementOffset: globalThis.vendor.observeElementOffset,
    onChange: () => paint(),
  });

  /** Draw what is in sight; the line numbered `focused` keeps the focus, which it has if none is given. */
  function paint(focused = document.activeElement?.parentNode === body ? Number(document.activeElement.dataset.index) : -1) {
    const own = names();
    body.replaceChildren(
      ...virtual.getVirtualItems().map((item) => {
        const row = listed[item.index];
        const open = () => openDrawer(section, row, listed);
        const line = make("div", {
          class: "line", role: "row", tabindex: "0", "aria-rowindex": String(item.index + 2), "data-index": String(item.index), click: open,
          keydown: (event) => {
            const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
            if (step === undefined && event.key !== "Enter") return;
            event.preventDefault(); // or Enter would also press the button that then has the focus
            if (step === undefined) open();
            else go(item.index + step);
          },
        });
        line.style.transform = `translateY(${item.start}px)`;
        line.style.gridTemplateColumns = own.map(width).join(" ");
        for (const name of own) {
          const value = section.cells[name][row];
          const kind = typeof value === "number" ? "number" : "text";
          line.append(make("span", { role: "cell", class: kind, text: shownValue(value), title: value === null ? null : String(value) }));
        }
        return line;
      }),
    );
    body.querySelector(`[data-index="${focused}"]`)?.focus({ preventScroll: true });
  }

  function go(index) {
    if (index < 0 || index >= listed.length) return;
    virtual.scrollToIndex(index);
    paint(index);
  }

  function heads() {
    const own = names();
    head.style.gridTemplateColumns = own.map(width).join(" ");
    head.replaceChildren(
      ...own.map((name) => {
        const column = section.columns.find((one) => one.name === name);
        const sort = state.by === name ? (state.down ? "descending" : "ascending") : "none";
        const mark = { ascending: " ▲", descending: " ▼", none: "" }[sort];
        const click = () => {
          state.down = state.by === name ? !state.down : column.type !== "text";
          state.by = name;
          list();
        };
        return make(
          "span",
          { role: "columnheader", "aria-sort": sort },
          make("button", { type: "button", text: name + mark, title: `${column.doc}${column.unit ? ` [${column.unit}]` : ""}`, click }),
        );
      }),
    );
  }

  function list() {
    const words = state.words.toLowerCase().split(/\s+/).filter(Boolean);
    const texts = section.cells[section.name_column];
    listed = words.length ? rows.filter((row) => words.every((word) => texts[row].toLowerCase().includes(word))) : rows;
    if (state.by) listed = sortedRows(section, listed, state.by, state.down);
    count.textContent = listed.length ? say("rows", listed.length, rows.length) : say("empty");
    scroller.setAttribute("aria-rowcount", String(listed.length + 1));
    const least = names().reduce((sum, name) => sum + (name === section.name_column ? 18 : Math.max(6, 0.6 * name.length)), 0);
    scroller.style.setProperty("--least", `${least}rem`);
    virtual.setOptions({ ...virtual.options, count: listed.length });
    body.style.height = `${listed.length * HEIGHT}px`;
    heads();
    virtual.measure();
    virtual._willUpdate();
    paint();
  }

  const search = make("input", {
    type: "search", placeholder: say("search"), "aria-label": say("search"),
    input: (event) => {
      state.words = event.target.value;
      list();
    },
  });
  const boxes = section.columns.map((column) => {
    const box = make("input", {
      type: "checkbox", checked: state.shown.has(column.name),
      change: (event) => {
        if (event.target.checked) state.shown.add(column.name);
        else state.shown.delete(column.name);
        list();
      },
    });
    return make("label", { title: column.doc }, box, make("span", { text: column.name }));
  });
  const columns = make("details", { class: "columns" }, make("summary", { text: say("columns") }), make("div", {}, ...boxes));
  const save = make("button", { type: "button", text: say("save"), click: () => saveFile(section, listed) });
  const copy = navigator.clipboard && make("button", {
    type: "button", text: say("copy"),
    click: async () => {
      await navigator.clipboard.writeText(asText(section, listed, names(), "\t"));
      copy.textContent = say("copied");
    },
  });
  const made = make("div", { class: "rows" }, make("div", { class: "bar" }, search, count, columns, copy, save), scroller);
  requestAnimationFrame(() => {
    virtual._didMount();
    list();
  });
  return made;
}

function saveFile(section, rows) {
  const text = asText(section, rows, section.columns.map((column) => column.name), ",");
  const url = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
  const link = make("a", { href: url, download: "netweight.csv" });
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}

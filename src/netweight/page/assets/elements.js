// Elements of the page. Text is always text: nothing is ever parsed as markup.

/** An element with attributes and children; `text` is its text, a function an event's listener. */
export function make(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (key === "text") made.textContent = value;
    else if (typeof value === "function") made.addEventListener(key, value);
    else made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

/** A choice of texts with a label before it. */
export function choice(label, options, chosen, changed) {
  const box = make("select", { change: (event) => changed(event.target.value) });
  for (const option of options) box.append(make("option", { text: option, value: option, selected: option === chosen }));
  return make("label", { class: "choice" }, make("span", { text: label }), box);
}

/** A plain table of rows of texts, the first of which are headings. */
export function plainTable(headings, rows) {
  const head = make("tr", {}, ...headings.map((text) => make("th", { text, scope: "col" })));
  const body = rows.map((row) => make("tr", {}, ...row.map((text, at) => make(at ? "td" : "th", { text, scope: at ? null : "row" }))));
  return make("table", { class: "plain" }, make("thead", {}, head), make("tbody", {}, ...body));
}

/** What may be wider than the page: it is scrolled by itself, by keys too. */
export function scrolled(content) {
  return make("div", { class: "wide", tabindex: "0" }, content);
}

/** A part of the page that opens; `content()` is made when it first does. */
export function opening(title, content) {
  const box = make("details", {}, make("summary", { text: title }));
  box.addEventListener("toggle", () => box.append(content()), { once: true });
  return box;
}

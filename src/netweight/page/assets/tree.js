// A tree of names: each line opens what is known of the edge to it.

import { make, opening, plainTable, scrolled } from "./elements.js";
import { say } from "./text.js";

function line(branch) {
  const name = make("span", { class: "name", text: branch.name });
  if (!branch.label) return make("div", {}, name);
  const known = () => {
    const parts = [plainTable([say("what"), say("value")], branch.details)];
    if (branch.rows.length > 1) parts.push(scrolled(plainTable(branch.rows[0], branch.rows.slice(1))));
    return make("div", {}, ...parts);
  };
  return make("div", {}, name, opening(branch.label, known));
}

/** The branches as nested lists. */
export function treePart(branches) {
  return make("ul", { class: "tree" }, ...branches.map((branch) => make("li", {}, line(branch), branch.below.length ? treePart(branch.below) : null)));
}

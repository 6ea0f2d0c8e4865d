// The page's data: columns of numbers as base64 of float64, of texts as an index into those that occur.

const NOTHING = 0xffffffff;

function bytes(text) {
  const binary = atob(text);
  const made = new Uint8Array(binary.length);
  for (let i = 0; i < binary.length; i++) made[i] = binary.charCodeAt(i);
  return made.buffer;
}

/** The cells of a column as numbers, texts and null. */
export function decodeColumn(column) {
  if (column.numbers !== undefined) {
    return Array.from(new Float64Array(bytes(column.numbers)), (value) => (Number.isNaN(value) ? null : value));
  }
  return Array.from(new Uint32Array(bytes(column.at)), (at) => (at === NOTHING ? null : column.texts[at]));
}

/** A section with its columns, each decoded when it is first asked for: `cells[name][row]`; `count` rows. */
export function decodeSection(section) {
  const cells = {};
  for (const column of section.columns) {
    let held = null;
    Object.defineProperty(cells, column.name, {
      enumerable: true,
      get() {
        held ??= decodeColumn(column);
        return held;
      },
    });
  }
  return { ...section, cells, count: section.rows };
}

/** Rows of a section as text: separated by `by`, quoted where they must be, with every digit. */
export function asText(section, rows, names, by) {
  const quote = (value) => {
    const text = value === null ? "" : String(value);
    return /["\n\r]/.test(text) || text.includes(by) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  const lines = [names.map(quote), ...rows.map((row) => names.map((name) => quote(section.cells[name][row])))];
  return `${lines.map((line) => line.join(by)).join("\n")}\n`;
}

// The page's data: columns of numbers as base64 of float64, of texts and lists as an index into those that occur.

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

/** A function of a row's number: its list of numbers, null where it has none. */
export function decodeLists(column) {
  const values = new Float64Array(bytes(column.lists));
  const ends = new Uint32Array(bytes(column.ends));
  const places = new Uint32Array(bytes(column.at));
  return (row) => {
    const at = places[row];
    return at === NOTHING ? null : Array.from(values.subarray(at ? ends[at - 1] : 0, ends[at]));
  };
}

/** Properties of `made` that `decode` makes of `held` when they are first asked for. */
function lazily(made, held, decode) {
  for (const [name, column] of held) {
    let decoded = null;
    Object.defineProperty(made, name, {
      enumerable: true,
      get() {
        decoded ??= decode(column);
        return decoded;
      },
    });
  }
  return made;
}

/** A section with its columns, each decoded when it is first asked for: `cells[name][row]`; `pictures[name](row)` are
 * lists of numbers, `stacks[row]` the towers, null where there is one; `count` rows. */
export function decodeSection(section) {
  const cells = lazily({}, section.columns.map((column) => [column.name, column]), decodeColumn);
  const pictures = lazily({}, Object.entries(section.pictures), decodeLists);
  const stacks = section.stacks && decodeColumn(section.stacks);
  return { ...section, cells, pictures, stacks, count: section.rows };
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

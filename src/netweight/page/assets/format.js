// Numbers and names for the eye; the cells' titles and saved tables have every digit.

/** Six digits, without zeros that say nothing. */
export function shownValue(value) {
  if (value === null || value === undefined) return "";
  if (typeof value !== "number") return String(value);
  if (Number.isInteger(value)) return String(value);
  const size = Math.abs(value);
  if (size >= 1e-4 && size < 1e7) return String(Number(value.toPrecision(6)));
  return Number(value.toPrecision(6)).toExponential();
}

/** The middle of some numbers, null of none. */
export function median(values) {
  const sorted = values.filter((value) => value !== null).sort((a, b) => a - b);
  if (!sorted.length) return null;
  const half = sorted.length >> 1;
  return sorted.length % 2 ? sorted[half] : (sorted[half - 1] + sorted[half]) / 2;
}

/** How colours run over these values: by orders of magnitude, around zero, or evenly. */
export function scaleOf(values) {
  let low = Infinity;
  let high = -Infinity;
  for (const value of values) {
    if (value === null) continue;
    low = Math.min(low, value);
    high = Math.max(high, value);
  }
  if (low > high) return { kind: "none", low: 0, high: 1 };
  if (low < 0 && high > 0) {
    const most = Math.max(-low, high);
    return { kind: "around zero", low: -most, high: most };
  }
  if (low > 0 && high / low > 1000) return { kind: "orders", low: Math.log10(low), high: Math.log10(high) };
  return { kind: "even", low, high: high > low ? high : low + 1 };
}

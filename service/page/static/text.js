// Figures and lists for readers.

// What is named of a long list.
const NAMED = 20;

export function formatBytes(bytes) {
  const [size, unit] = bytes < 1 << 20 ? [bytes / 1024, "KiB"] : [bytes / (1 << 20), "MiB"];
  return `${size.toFixed(1).replace(/\.0$/, "")} ${unit}`;
}

export function formatPixels(pixels) {
  return `${Number((pixels / 1e6).toPrecision(3))} million pixels`;
}

/** The names of classes, not more than a reader takes in. */
export function listed(classes) {
  const names = classes.slice(0, NAMED).map(({ name }) => name).join(", ");
  return classes.length > NAMED ? `${names} and ${classes.length - NAMED} more` : names;
}

/** With a capital and a full stop. */
export function sentence(text) {
  const capital = text.charAt(0).toUpperCase() + text.slice(1);
  return /[.?!]$/.test(capital) ? capital : `${capital}.`;
}

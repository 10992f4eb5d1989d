// Figures and lists for readers.

export function formatBytes(bytes) {
  const [size, unit] = bytes < 1 << 20 ? [bytes / 1024, "KiB"] : [bytes / (1 << 20), "MiB"];
  return `${size.toFixed(1).replace(/\.0$/, "")} ${unit}`;
}

export function formatPixels(pixels) {
  return `${Number((pixels / 1e6).toPrecision(3))} million pixels`;
}

/** Each class with its colour, as items of a list. */
export function chips(classes) {
  return classes.map(({ name, color }) => {
    const item = document.createElement("li");
    const swatch = document.createElement("span");
    swatch.className = "swatch";
    swatch.style.backgroundColor = `rgb(${color})`;
    item.append(swatch, name);
    return item;
  });
}

/** With a capital and a full stop. */
export function sentence(text) {
  const capital = text.charAt(0).toUpperCase() + text.slice(1);
  return /[.?!]$/.test(capital) ? capital : `${capital}.`;
}

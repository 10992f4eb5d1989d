// Files of what is on the screen: their formats, names and buttons.

// What each format is called, and how its files end.
export const FORMATS = {
  labels: { title: "Labels", note: "PNG, palette", extension: "png" },
  color: { title: "Colours", note: "PNG", extension: "png" },
  overlay: { title: "Overlay", note: "PNG, as shown", extension: "png" },
  confidence: { title: "Confidence", note: "PNG, grey", extension: "png" },
  contours: { title: "Contours", note: "GeoJSON", extension: "geojson" },
  npy: { title: "Labels", note: "NumPy", extension: "npy" },
  json: { title: "Summary", note: "JSON", extension: "json" },
};

/** Name of the file in a format that belongs to an image. */
export function outputName(imageName, format) {
  const stem = imageName.replace(/\.[^.]*$/, "");
  return `${stem}-${format}.${FORMATS[format].extension}`;
}

/** A button that calls `onClick(format)`. */
export function downloadButton(format, onClick) {
  const { title, note } = FORMATS[format];
  const button = document.createElement("button");
  const detail = document.createElement("span");
  button.type = "button";
  button.className = "button";
  button.dataset.format = format;
  detail.textContent = note;
  button.append(title, detail);
  button.addEventListener("click", () => onClick(format));
  return button;
}

/** Let the browser save a file. */
export function save(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  // The browser has begun to read it by the next turn of its loop; a moment more costs nothing.
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

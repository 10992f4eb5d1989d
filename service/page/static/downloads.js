// Files of what is on the screen: their formats, names and buttons.

// What each format is called, and how its files end; the first three are those that most people want.
export const FORMATS = {
  overlay: { title: "Overlay", note: "PNG, as shown", ending: "-overlay.png" },
  labels: { title: "Label map", note: "PNG, class ids", ending: "-labels.png" },
  cutout: { title: "Cut-out", note: "PNG, transparent", ending: "-cutout.png" },
  color: { title: "Colours", note: "PNG", ending: "-color.png" },
  confidence: { title: "Confidence", note: "PNG, grey", ending: "-confidence.png" },
  contours: { title: "Contours", note: "GeoJSON", ending: "-contours.geojson" },
  labelme: { title: "LabelMe", note: "JSON", ending: ".json" },
  coco: { title: "COCO", note: "JSON", ending: "-coco.json" },
  labelstudio: { title: "Label Studio", note: "JSON, predictions", ending: "-labelstudio.json" },
  npy: { title: "NumPy array", note: "class ids", ending: "-labels.npy" },
  json: { title: "Summary", note: "JSON, shares", ending: "-summary.json" },
};
const FIRST = 3;

/** Name of the file in a format that belongs to an image. */
export function outputName(imageName, format) {
  return imageName.replace(/\.[^.]*$/, "") + FORMATS[format].ending;
}

/** Show a button for each of the formats, which calls `onClick(format)`: three, and the rest in a menu. */
export function showDownloads(formats, onClick) {
  const buttons = Object.keys(FORMATS)
    .filter((format) => formats.includes(format))
    .map((format) => downloadButton(format, onClick));
  document.getElementById("downloads").replaceChildren(...buttons.slice(0, FIRST));
  document.getElementById("more-downloads").replaceChildren(...buttons.slice(FIRST));
}

/** All buttons. */
export function downloadButtons() {
  return document.querySelectorAll("[data-format]");
}

function downloadButton(format, onClick) {
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

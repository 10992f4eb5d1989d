// The time of every stage, from the header Server-Timing.

const NAMES = {
  read: "Receive the image",
  wait: "Wait for a thread",
  decode: "Decode",
  queue: "Wait for the model",
  infer: "Model",
  post: "Label map",
  encode: "Encode the answer",
  total: "In the service",
};

/** Pairs of stage and milliseconds. */
export function parseServerTiming(header) {
  return header
    .split(",")
    .map((entry) => entry.trim().match(/^([\w-]+).*;\s*dur=([\d.]+)/))
    .filter((match) => match !== null)
    .map(([, stage, milliseconds]) => [stage, Number(milliseconds)]);
}

/** Fill the line and the table below it; `roundTripMs` is what this page has measured. */
export function showTimings(body, header, roundTripMs) {
  const rows = [...parseServerTiming(header ?? ""), ["round-trip", roundTripMs]];
  const longest = Math.max(...rows.map(([, milliseconds]) => milliseconds), 1e-3);
  const [model] = rows.filter(([stage]) => stage === "infer").map(([, milliseconds]) => milliseconds);
  document.getElementById("timing-line").textContent =
    `${Math.round(roundTripMs)} ms from here` + (model === undefined ? "" : `, ${Math.round(model)} ms of it in the model`);
  body.replaceChildren(...rows.map(([stage, milliseconds]) => timingRow(stage, milliseconds, longest)));
}

function timingRow(stage, milliseconds, longest) {
  const row = document.getElementById("timing-row").content.cloneNode(true).firstElementChild;
  row.dataset.stage = stage;
  row.classList.toggle("sum", stage === "total" || stage === "round-trip");
  row.querySelector("th").textContent = stage === "round-trip" ? "Seen from here" : (NAMES[stage] ?? stage);
  row.querySelector(".meter span").style.width = `${(100 * milliseconds) / longest}%`;
  row.querySelector("td:last-child").textContent = `${milliseconds.toFixed(1)} ms`;
  return row;
}

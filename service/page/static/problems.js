// Errors in words for people: what is wrong, what helps, and behind "Details" what a maintainer needs.

import { sentence } from "./text.js";

const ACCEPTED = "Choose a JPEG, PNG, WebP, BMP, TIFF or GIF picture.";

// By the stable name of the kind of problem (RFC 9457): a title, and what to do; the service's own words where null.
const WORDS = {
  "not-an-image": ["This is not an image.", ACCEPTED],
  "unsupported-image": ["This kind of image is not accepted.", ACCEPTED],
  "payload-too-large": ["This image is too large.", null],
  unauthorized: ["The service needs a key.", null],
  "engine-failure": ["The model failed on this image.", "Another image may work."],
  "deadline-exceeded": ["This took too long.", null],
};
const DAMAGED = ["This image is damaged or incomplete.", "Save or send it again, or choose another."];

/** `{ title, text, command, details }` of an error. */
export function explain(error) {
  const [title, text] = isDamaged(error) ? DAMAGED : (WORDS[error.type] ?? [error.title || "That did not work.", null]);
  return {
    title,
    text: text ?? sentence(error.message),
    command: error.command ?? "",
    details: [error.type, error.status ? `status ${error.status}` : "", error.requestId ? `request ${error.requestId}` : ""]
      .filter(Boolean)
      .join(" · "),
  };
}

function isDamaged({ type, message }) {
  return type === "not-an-image" && /truncated|corrupt/.test(message);
}

/** Show an error where images come in. */
export function showProblem(error) {
  const element = (id) => document.getElementById(id);
  const { title, text, command, details } = explain(error);
  element("alert-title").textContent = title;
  element("alert-text").textContent = text;
  element("alert-command").textContent = command;
  element("alert-command").hidden = command === "";
  element("alert-id").textContent = details;
  element("alert-details").hidden = details === "";
  element("alert-details").open = false;
  element("alert").hidden = false;
}

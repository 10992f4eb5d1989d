// The page: an image comes in, its classes are shown, and everything that can be done with them.

import { Camera } from "./camera.js";
import { Choices } from "./choices.js";
import { curlCommand, parametersFor } from "./command.js";
import { FORMATS, downloadButton, outputName, save } from "./downloads.js";
import { LabelMap } from "./label_map.js";
import { Legend, formatShare } from "./legend.js";
import { Problem, address, getJson, hasKey, segment, useKey } from "./service.js";
import { Stage } from "./stage.js";
import { formatBytes, formatPixels, listed, sentence } from "./text.js";
import { showTimings } from "./timings.js";

const element = (id) => document.getElementById(id);
const limits = {
  bytes: Number(document.body.dataset.maxImageBytes),
  pixels: Number(document.body.dataset.maxImagePixels),
};

// The image on the screen, the classes of the model, and the request under way.
const state = { image: null, classes: null, formats: [], running: null, again: null };
const choices = new Choices({
  onChange: () => perform(chooseAgain),
  maxTimeoutMs: Number(document.body.dataset.maxTimeoutMs),
});
const stage = new Stage({ onPoint: (id) => legend.point(id), onChange: () => showCommand() });
const legend = new Legend(() => {
  stage.repaint((id) => legend.isShown(id));
  showCommand();
});

/** Load the list of the models, and the classes of the one that is chosen. */
async function loadModels(options) {
  const { models } = await getJson("models", {}, options);
  choices.showModels(models);
  await loadClasses(options);
}

async function loadClasses(options) {
  const { model } = choices;
  const { classes } = await getJson("labels", choices.modelParameters, options);
  state.classes = classes;
  state.formats = model.formats.filter((format) => format in FORMATS);
  element("model").textContent = `${model.name} ${model.version}, ${model.num_classes} classes`;
  element("known").textContent = `Every pixel gets its class: ${listed(classes)}.`;
  element("downloads").replaceChildren(...state.formats.map((format) => downloadButton(format, download)));
}

/** Segment an image and show the answer; the one before is given up. */
async function open(blob, name) {
  await perform(async (options) => {
    checkBytes(blob, name);
    setStatus(`Opening ${name}`);
    const image = { blob, name };
    const photo = await readPhoto(image, options);
    checkPixels(photo, name);
    showImage(image, photo);
    photo.close();
    if (state.classes === null) {
      await loadModels(options);
    }
    await segmentImage(options);
  });
}

/** Follow another choice. */
async function chooseAgain(options) {
  await loadClasses(options);
  if (state.image !== null) {
    await segmentImage(options);
  }
}

/** Segment the image that is shown, by what is chosen. */
async function segmentImage(options) {
  const { name } = state.image;
  setStatus(choices.windows > 1 ? `Segmenting ${name} in ${choices.windows} windows` : `Segmenting ${name}`);
  element("result").classList.add("pending");
  const started = performance.now();
  const response = await request({ format: "labels", palette: "none", ...choices.parameters }, options);
  const labels = await LabelMap.read(await response.blob());
  options.signal.throwIfAborted();
  showAnswer(labels, response.headers, performance.now() - started);
}

/** Ask the service about the image that is shown. */
function request(parameters, options) {
  return segment(state.image, parameters, { ...options, headers: choices.headers });
}

/** Run an action with the means to wait and to stop; whatever goes wrong is shown. */
async function perform(action) {
  state.running?.abort();
  const running = new AbortController();
  const { signal } = running;
  state.running = running;
  state.again = () => perform(action);
  clearMessages();
  element("busy").hidden = false;
  try {
    await action({ signal, wait: (problem, seconds) => countDown(problem, seconds, signal) });
  } catch (error) {
    if (!signal.aborted) {
      showError(error);
    }
  } finally {
    if (state.running === running) {
      element("busy").hidden = true;
    }
  }
}

function checkBytes(blob, name) {
  if (blob.size > limits.bytes) {
    throw new Problem(`The file ${name} has ${formatBytes(blob.size)}, at most ${formatBytes(limits.bytes)} are accepted.`);
  }
}

function checkPixels({ width, height }, name) {
  if (width * height > limits.pixels) {
    const [value, limit] = [width * height, limits.pixels].map(formatPixels);
    throw new Problem(`The file ${name} has ${value}, at most ${limit} are accepted.`);
  }
}

/** The upright picture; the service reads what the browser cannot, such as TIFF, and what is no image it explains. */
async function readPhoto(image, options) {
  try {
    return await createImageBitmap(image.blob);
  } catch {
    const response = await segment(image, { format: "overlay", alpha: "0" }, options);
    return createImageBitmap(await response.blob());
  }
}

function showImage(image, photo) {
  state.image = image;
  document.body.classList.add("has-image");
  element("result").classList.add("pending");
  element("result").hidden = false;
  stage.showPhoto(photo, photo.width, photo.height);
  choices.showImage(photo.width, photo.height);
}

function showAnswer(labels, headers, milliseconds) {
  element("result").classList.remove("pending");
  legend.show(labels, state.classes);
  stage.showLabels(labels, state.classes, (id) => legend.isShown(id));
  showTimings(element("timings"), headers.get("Server-Timing"), milliseconds);
  const version = headers.get("X-Model-Version");
  element("provenance").textContent = [
    `${labels.width} x ${labels.height} pixels`,
    choices.windows > 1 ? `${choices.windows} windows` : "",
    version ? `model version ${version}` : "",
    `request ${headers.get("X-Request-ID")}`,
  ]
    .filter(Boolean)
    .join(" · ");
  showCommand();
  const [largest] = legend.present;
  const count = `${legend.present.length} ${legend.present.length === 1 ? "class" : "classes"}`;
  element("stage").setAttribute("aria-label", `${state.image.name}, segmented`);
  setStatus(
    `${state.image.name}: ${count} in ${Math.round(milliseconds)} ms, ` +
      `most of it ${largest.name} with ${formatShare(labels.share(largest.id))}.`,
  );
}

/** Show the curl command of the picture on the screen, and what the downloads hold. */
function showCommand() {
  if (state.image === null) {
    return;
  }
  const url = address("segment", parametersFor("overlay", { choices, opacity: stage.opacity, legend }));
  element("command").textContent = curlCommand(url, {
    fileName: state.image.name,
    output: outputName(state.image.name, "overlay"),
    headers: choices.headers,
    needsKey: hasKey(),
  });
  const none = legend.shown.length === 0;
  for (const button of element("downloads").children) {
    button.disabled = none;
  }
  const shown = legend.isWhole ? "All classes are in the files." : "Only the classes that are on are in the files.";
  element("download-note").textContent = none ? "Turn a class on to download." : shown;
}

async function download(format) {
  const parameters = parametersFor(format, { choices, opacity: stage.opacity, legend });
  const name = outputName(state.image.name, format);
  await perform(async (options) => {
    setStatus(`Making ${name}`);
    const response = await request(parameters, options);
    save(await response.blob(), name);
    setStatus(`${name} is saved.`);
  });
}

/** Tell a problem and count the seconds until the next try. */
function countDown(problem, seconds, signal) {
  element("retry").hidden = false;
  element("retry-text").textContent = `${sentence(problem.message)} Trying again in`;
  setStatus(`The service is busy. Trying again in ${seconds} seconds.`);
  return new Promise((resolve, reject) => {
    let left = seconds;
    const show = () => {
      element("retry-seconds").textContent = `${left} s`;
    };
    const timer = setInterval(() => {
      left -= 1;
      show();
      if (left <= 0) {
        end(resolve);
      }
    }, 1000);
    const end = (settle) => {
      clearInterval(timer);
      element("retry").hidden = true;
      settle(signal.reason);
    };
    element("retry-stop").onclick = () => {
      state.running.abort();
      element("busy").hidden = true;
      setStatus("Stopped.");
    };
    signal.addEventListener("abort", () => end(reject), { once: true });
    show();
  });
}

function showError(error) {
  const alert = element("alert");
  alert.hidden = false;
  alert.replaceChildren();
  const title = document.createElement("strong");
  title.textContent = "That did not work. ";
  alert.append(title, sentence(error.message));
  if (error.requestId) {
    alert.append(` (request ${error.requestId})`);
  }
  setStatus("");
  if (error.status === 401) {
    element("key-form").hidden = false;
    element("key").focus();
  }
}

function clearMessages() {
  element("alert").hidden = true;
  element("key-form").hidden = true;
}

function setStatus(text) {
  element("status").textContent = text;
}

function listen() {
  element("limits").textContent =
    `At most ${formatBytes(limits.bytes)} and ${formatPixels(limits.pixels)}.`;
  element("file").addEventListener("change", ({ target }) => {
    openFile(target.files[0]);
    // So that the same file can be chosen again.
    target.value = "";
  });
  window.addEventListener("dragover", (event) => {
    event.preventDefault();
    document.body.classList.add("dragging");
  });
  window.addEventListener("dragleave", ({ relatedTarget }) => {
    document.body.classList.toggle("dragging", relatedTarget !== null);
  });
  window.addEventListener("drop", (event) => {
    event.preventDefault();
    document.body.classList.remove("dragging");
    openFile(event.dataTransfer.files[0]);
  });
  window.addEventListener("paste", (event) => openFile(event.clipboardData.files[0]));
  element("key-form").addEventListener("submit", (event) => {
    event.preventDefault();
    useKey(element("key").value);
    element("key").value = "";
    state.again();
  });
  element("copy").addEventListener("click", copyCommand);
}

function openFile(file) {
  if (file) {
    open(file, file.name);
  }
}

async function copyCommand() {
  try {
    await navigator.clipboard.writeText(element("command").textContent);
    setStatus("The command is copied.");
  } catch {
    getSelection().selectAllChildren(element("command"));
    setStatus("The browser does not let this page copy; the command is selected, copy it with your keyboard.");
  }
}

new Camera({
  onPicture: (blob) => open(blob, "camera.jpg"),
  onError: (text) => showError(new Problem(text)),
});
listen();
await perform(loadModels);

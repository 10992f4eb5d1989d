// The page: images come in, their classes are shown, and everything that can be done with them.

import { Camera } from "./camera.js";
import { Choices } from "./choices.js";
import { curlCommand, javascriptCode, parametersFor, pythonCode } from "./command.js";
import { FORMATS, downloadButtons, outputName, save, showDownloads } from "./downloads.js";
import { LabelMap } from "./label_map.js";
import { Legend, formatShare } from "./legend.js";
import { showProblem } from "./problems.js";
import { Problem, address, getJson, hasKey, segment, useKey } from "./service.js";
import { listenToSources } from "./sources.js";
import { Stage } from "./stage.js";
import { Strip } from "./strip.js";
import { chips, formatBytes, formatPixels, sentence } from "./text.js";
import { showTimings } from "./timings.js";

const element = (id) => document.getElementById(id);
const limits = {
  bytes: Number(document.body.dataset.maxImageBytes),
  pixels: Number(document.body.dataset.maxImagePixels),
};
const LANGUAGES = { curl: curlCommand, python: pythonCode, javascript: javascriptCode };
// Problems that every further image would meet: no access, and a service that does not answer.
const HOPELESS = [0, 401, 403, 404];

// The pictures that were chosen, the one on the screen, the classes of the model, and the work under way. A picture is
// `{ blob, name }`, later with `width`, `height`, what the browser can show (`seen`), and its `answer` or `problem`.
const state = { pictures: [], image: null, classes: null, running: null, again: null };
const choices = new Choices({
  onChange: () => perform(chooseAgain),
  maxTimeoutMs: Number(document.body.dataset.maxTimeoutMs),
});
const stage = new Stage({ onPoint: (id) => legend.point(id), onChange: () => showCommand() });
const legend = new Legend(() => {
  stage.repaint((id) => legend.isShown(id));
  showCommand();
});
const strip = new Strip((picture) => select(picture));

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
  legend.useClasses(classes);
  element("model").textContent = `${model.name} ${model.version}, ${model.num_classes} classes`;
  element("known").replaceChildren(...chips(classes));
  showDownloads(model.formats.filter((format) => format in FORMATS), download);
}

/** Segment pictures one after another; those before are given up. */
async function open(pictures) {
  await perform(async (options) => {
    if (pictures.length > 1) {
      usePictures(pictures);
    }
    await segmentAll(pictures, options);
  });
}

function usePictures(pictures) {
  state.pictures = pictures;
  state.image = null;
  strip.use(pictures);
}

/** Follow another choice. */
async function chooseAgain(options) {
  await loadClasses(options);
  const { pictures, image } = state;
  for (const picture of pictures) {
    delete picture.answer;
    delete picture.problem;
    strip.mark(picture, "waiting");
  }
  await segmentAll(image === null ? [] : [image, ...pictures.filter((picture) => picture !== image)], options);
}

/** Segment the pictures that have no answer; where there are several, one that fails stops no other. */
async function segmentAll(pictures, options) {
  for (const picture of pictures.filter(({ answer }) => answer === undefined)) {
    try {
      await segmentPicture(picture, options);
      strip.mark(picture, "done");
    } catch (error) {
      if (pictures.length === 1 || options.signal.aborted || !(error instanceof Problem) || HOPELESS.includes(error.status)) {
        throw error;
      }
      picture.problem = error;
      strip.mark(picture, "failed");
      showProblem(error);
    }
  }
}

async function segmentPicture(picture, options) {
  await prepare(picture, options);
  if (state.classes === null) {
    await loadModels(options);
  }
  const { windows, parameters, headers } = choices.of(picture);
  setStatus(windows > 1 ? `Segmenting ${picture.name} in ${windows} windows` : `Segmenting ${picture.name}`);
  if (state.image === picture) {
    element("result").classList.add("pending");
  }
  const started = performance.now();
  const query = { format: "labels", palette: "none", ...parameters };
  const response = await segment(picture, query, { ...options, headers });
  const blob = await response.blob();
  options.signal.throwIfAborted();
  picture.answer = { blob, headers: response.headers, milliseconds: performance.now() - started };
  if (state.image === picture) {
    await showAnswer(picture);
  }
}

/** Open a picture, and show it if it is the only one or the first. */
async function prepare(picture, options) {
  checkBytes(picture);
  setStatus(`Opening ${picture.name}`);
  const photo = await readPhoto(picture, options);
  Object.assign(picture, { width: photo.width, height: photo.height });
  checkPixels(picture);
  options.signal.throwIfAborted();
  if (!state.pictures.includes(picture)) {
    usePictures([picture]);
  }
  if (state.image === null || state.image === picture) {
    showPhoto(picture, photo);
  }
  photo.close();
}

/** Show another of several pictures. */
async function select(picture) {
  if (picture.problem) {
    showProblem(picture.problem);
    return;
  }
  if (picture.width) {
    state.image = picture;
    const photo = await createImageBitmap(picture.seen);
    if (state.image === picture) {
      showPhoto(picture, photo);
    }
    photo.close();
    if (picture.answer) {
      await showAnswer(picture);
    }
  }
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

function checkBytes({ blob, name }) {
  if (blob.size > limits.bytes) {
    throw tooLarge(`The file ${name} has ${formatBytes(blob.size)}, at most ${formatBytes(limits.bytes)} are accepted.`);
  }
}

function checkPixels({ width, height, name }) {
  if (width * height > limits.pixels) {
    const [value, limit] = [width * height, limits.pixels].map(formatPixels);
    throw tooLarge(`The file ${name} has ${value}, at most ${limit} are accepted.`);
  }
}

function tooLarge(text) {
  return new Problem(text, { type: "payload-too-large", status: 413 });
}

/** The upright picture; the service reads what the browser cannot, such as TIFF, and explains what is not an image. */
async function readPhoto(picture, options) {
  try {
    picture.seen = picture.blob;
    return await createImageBitmap(picture.seen);
  } catch {
    const response = await segment(picture, { format: "overlay", alpha: "0" }, options);
    picture.seen = await response.blob();
    return createImageBitmap(picture.seen);
  }
}

function showPhoto(picture, photo) {
  state.image = picture;
  strip.select(picture);
  document.body.classList.add("has-image");
  element("intro").hidden = true;
  element("result").classList.add("pending");
  element("result").hidden = false;
  element("picture-name").textContent = picture.name;
  stage.showPhoto(photo, photo.width, photo.height);
  choices.showImage(photo.width, photo.height);
}

async function showAnswer(picture) {
  const { blob, headers, milliseconds } = picture.answer;
  const labels = await LabelMap.read(blob);
  if (state.image !== picture) {
    return;
  }
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
  element("stage").setAttribute("aria-label", `${picture.name}, segmented`);
  setStatus(
    `${picture.name}: ${count} in ${Math.round(milliseconds)} ms, ` +
      `most of it ${largest.name} with ${formatShare(labels.share(largest.id))}.`,
  );
}

/** Show the request of the picture on the screen as code, and what the downloads hold. */
function showCommand() {
  if (state.image === null) {
    return;
  }
  const url = address("segment", parametersOf("overlay"));
  const { value } = document.querySelector("#languages input:checked");
  element("command").textContent = LANGUAGES[value](url, {
    fileName: state.image.name,
    output: outputName(state.image.name, "overlay"),
    headers: choices.headers,
    needsKey: hasKey(),
  });
  const none = legend.shown.length === 0;
  for (const button of downloadButtons()) {
    button.disabled = none;
  }
  const shown = legend.isWhole ? "All classes are in the files." : "Only the classes that are on are in the files.";
  element("download-note").textContent = none ? "Turn a class on to download." : shown;
}

function parametersOf(format) {
  return parametersFor(format, { choices, opacity: stage.opacity, legend, name: state.image.name });
}

async function download(format) {
  const parameters = parametersOf(format);
  const { image } = state;
  const name = outputName(image.name, format);
  element("more").open = false;
  await perform(async (options) => {
    setStatus(`Making ${name}`);
    const response = await segment(image, parameters, { ...options, headers: choices.headers });
    save(await response.blob(), name);
    setStatus(`${name} is saved.`);
    const left = state.pictures.filter(({ answer, problem }) => answer === undefined && problem === undefined);
    await segmentAll(left, options);
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
  showProblem(error);
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
  listenToSources({ onPictures: open, onProblem: showProblem });
  element("key-form").addEventListener("submit", (event) => {
    event.preventDefault();
    useKey(element("key").value);
    element("key").value = "";
    state.again();
  });
  element("languages").addEventListener("change", showCommand);
  element("copy").addEventListener("click", copyCommand);
}

async function copyCommand() {
  try {
    await navigator.clipboard.writeText(element("command").textContent);
    setStatus("The code is copied.");
  } catch {
    getSelection().selectAllChildren(element("command"));
    setStatus("The browser does not let this page copy; the code is selected, copy it with your keyboard.");
  }
}

new Camera({
  onPicture: (blob) => open([{ blob, name: "camera.jpg" }]),
  onError: (text) => showError(new Problem(text)),
});
listen();
await perform(loadModels);

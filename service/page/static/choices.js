// What can be chosen for an image: which model looks at it, and whether at once or in windows.

import { countWindows } from "./windows.js";

const element = (id) => document.getElementById(id);

export class Choices {
  /** `onChange()` is called when the user has chosen; `maxTimeoutMs` is the longest time of a request, 0 if not known. */
  constructor({ onChange, maxTimeoutMs }) {
    this.models = [];
    this.image = null;
    this.maxTimeoutMs = maxTimeoutMs;
    for (const id of ["model-choice", "tile"]) {
      element(id).addEventListener("change", () => {
        this.show();
        onChange();
      });
    }
  }

  /** Offer these models; what was chosen stays so if it is among them. */
  showModels(models) {
    const before = this.models.length ? this.model.name : "";
    const chosen = models.find(({ name }) => name === before) ?? models.find((model) => model.default) ?? models[0];
    this.models = models;
    element("model-choice").replaceChildren(
      ...models.map((model) => {
        const text = `${model.name} ${model.version}, ${model.num_classes} classes`;
        return new Option(text, model.name, model === chosen, model === chosen);
      }),
    );
    this.show();
  }

  /** Offer what makes sense for an image of this size, in pixels. */
  showImage(width, height) {
    this.image = { width, height };
    this.show();
  }

  /** The model that was chosen, as the service lists it. */
  get model() {
    return this.models.find(({ name }) => name === element("model-choice").value);
  }

  /** Times that the model is run for the image that is shown. */
  get windows() {
    return this.of(this.image).windows;
  }

  /** Parameters of requests about the model. */
  get modelParameters() {
    return this.model === undefined || this.model.default ? {} : { model: this.model.name };
  }

  /** Parameters of requests about the image that is shown. */
  get parameters() {
    return this.of(this.image).parameters;
  }

  /** Headers of requests about the image that is shown. */
  get headers() {
    return this.of(this.image).headers;
  }

  /** What is asked for an image of a size: how many windows, and the request's parameters and headers. */
  of(size) {
    const possible = this.windowsOf(size);
    const isTiled = element("tile").checked && possible > 1;
    return {
      windows: isTiled ? possible : 1,
      parameters: { ...this.modelParameters, ...(isTiled ? { mode: "tile" } : {}) },
      // Many windows need all the time that there is.
      headers: isTiled && this.maxTimeoutMs ? { "X-Request-Timeout-Ms": String(this.maxTimeoutMs) } : {},
    };
  }

  windowsOf(size) {
    const tiles = this.model?.modes.includes("tile");
    return size && tiles ? countWindows(size, this.model.input_size) : 1;
  }

  show() {
    const windows = this.windowsOf(this.image);
    element("model-option").hidden = this.models.length < 2;
    element("choices").hidden = windows === 1;
    if (windows > 1) {
      const [image, window] = [this.image, this.model.input_size].map(({ width, height }) => `${width} x ${height}`);
      element("tile-note").textContent =
        `The model sees this image of ${image} shrunk to ${window}. In ${windows} windows it sees small things too, but ` +
        `never the whole scene, and takes about ${windows} times as long.`;
    }
  }
}

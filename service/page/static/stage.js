// The picture with its classes on top: opacity, before and after, and the class under the pointer.

import { Zoom } from "./zoom.js";

// Longest side of what is drawn; a screen shows no more, and memory is bounded.
const MAX_SIDE = 2048;
const STEPS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
const ZOOMS = { "+": "in", "=": "in", "-": "out", 0: "whole" };

const percent = (share) => `${Math.round(100 * share)} %`;
const element = (id) => document.getElementById(id);
const clamp = (value) => Math.min(1, Math.max(0, value));

export class Stage {
  /** `onPoint(id)` gets the class under the pointer, or null; `onChange()` is called when opacity has changed. */
  constructor({ onPoint, onChange }) {
    this.labels = null;
    this.names = new Map();
    this.cursor = { x: 0.5, y: 0.5 };
    this.stage = element("stage");
    this.onPoint = onPoint;
    this.zoom = new Zoom(this.stage, [element("photo"), element("overlay")], () => this.showZoom());
    element("zoom-in").addEventListener("click", () => this.zoom.in());
    element("zoom-out").addEventListener("click", () => this.zoom.out());
    element("zoom-fit").addEventListener("click", () => this.zoom.whole());
    element("opacity").addEventListener("input", () => {
      this.showOpacity();
      onChange();
    });
    element("split").addEventListener("input", () => this.showSplit());
    this.stage.addEventListener("pointermove", (event) => this.pointAt(event));
    this.stage.addEventListener("pointerdown", (event) => this.pointAt(event));
    this.stage.addEventListener("pointerleave", () => this.point(null));
    this.stage.addEventListener("keydown", (event) => this.onKey(event));
    this.stage.addEventListener("blur", () => this.point(null));
    this.followDivider(element("divider"));
    this.showOpacity();
    this.showSplit();
  }

  get opacity() {
    return Number(element("opacity").value) / 100;
  }

  /** Show a picture; its classes come later. */
  showPhoto(source, width, height) {
    this.labels = null;
    this.zoom.whole();
    this.point(null);
    this.stage.style.setProperty("--ratio", String(width / height));
    const scale = Math.min(1, MAX_SIDE / Math.max(width, height));
    for (const canvas of [element("photo"), element("overlay")]) {
      canvas.width = Math.max(1, Math.round(width * scale));
      canvas.height = Math.max(1, Math.round(height * scale));
    }
    const photo = element("photo");
    photo.getContext("2d").drawImage(source, 0, 0, photo.width, photo.height);
  }

  /** Lay classes over the picture. */
  showLabels(labels, classes, isShown) {
    this.labels = labels;
    this.classes = new Map(classes.map((info) => [info.id, info]));
    this.repaint(isShown);
  }

  repaint(isShown) {
    this.labels.paint(element("overlay"), [...this.classes.values()], isShown);
  }

  showOpacity() {
    element("overlay").style.opacity = String(this.opacity);
    element("opacity-value").textContent = percent(this.opacity);
  }

  showSplit() {
    const { value } = element("split");
    this.stage.style.setProperty("--split", `${value}%`);
    element("split-value").textContent = `${value} %`;
    element("split").setAttribute("aria-valuetext", `${value} percent of the width show the picture alone`);
  }

  showZoom() {
    const scale = this.zoom?.scale ?? 1;
    element("zoom-value").textContent = percent(scale);
    element("zoom-out").disabled = element("zoom-fit").disabled = scale === 1;
  }

  pointAt(event) {
    this.point(this.zoom.toPicture(this.zoom.placeOf(event)));
  }

  /** Tell the class at a place, shares of width and height; null for none. */
  point(place, { speak = false } = {}) {
    const info = place && this.labels ? this.classes.get(this.labels.at(place.x, place.y)) : undefined;
    element("tip").hidden = element("crosshair").hidden = true;
    this.onPoint(info ? info.id : null);
    if (!info) {
      return;
    }
    this.cursor = place;
    const tip = element("tip");
    tip.hidden = false;
    tip.querySelector(".swatch").style.backgroundColor = `rgb(${info.color})`;
    element("tip-text").textContent = info.name;
    const seen = this.zoom.toStage(place);
    this.place(tip, seen);
    if (speak) {
      element("crosshair").hidden = false;
      element("crosshair").style.left = `${100 * seen.x}%`;
      element("crosshair").style.top = `${100 * seen.y}%`;
      element("pointed").textContent = `${info.name}, ${percent(place.x)} from the left, ${percent(place.y)} from the top`;
    }
  }

  /** Put the tip beside the place, inside the picture. */
  place(tip, { x, y }) {
    const { width, height } = this.stage.getBoundingClientRect();
    const left = x * width + 16 + tip.offsetWidth > width ? x * width - 16 - tip.offsetWidth : x * width + 16;
    const top = Math.min(Math.max(4, y * height - tip.offsetHeight - 8), height - tip.offsetHeight - 4);
    tip.style.transform = `translate(${Math.max(4, left)}px, ${top}px)`;
  }

  onKey(event) {
    const zoom = ZOOMS[event.key];
    if (zoom !== undefined && !event.ctrlKey && !event.metaKey) {
      event.preventDefault();
      this.zoom[zoom]();
      return;
    }
    const step = STEPS[event.key];
    if (step === undefined) {
      return;
    }
    event.preventDefault();
    const size = (event.shiftKey ? 0.1 : 0.02) / this.zoom.scale;
    const place = { x: clamp(this.cursor.x + step[0] * size), y: clamp(this.cursor.y + step[1] * size) };
    this.zoom.reveal(place);
    this.point(place, { speak: true });
  }

  followDivider(divider) {
    divider.addEventListener("pointerdown", (event) => divider.setPointerCapture(event.pointerId));
    divider.addEventListener("pointermove", (event) => {
      if (!divider.hasPointerCapture(event.pointerId)) {
        return;
      }
      const box = this.stage.getBoundingClientRect();
      element("split").value = String(100 * clamp((event.clientX - box.left) / box.width));
      this.showSplit();
    });
  }
}

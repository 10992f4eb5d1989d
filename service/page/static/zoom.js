// The part of the picture that is seen, the same before and after: by wheel, fingers, dragging, buttons and keys.

const LARGEST = 16;
const STEP = 1.5;
const clamp = (value, low, high) => Math.min(high, Math.max(low, value));

export class Zoom {
  /** `stage` holds the `canvases`; `onChange()` is called when another part is seen. */
  constructor(stage, canvases, onChange) {
    Object.assign(this, { stage, canvases, onChange });
    this.fingers = new Map();
    this.whole();
    stage.addEventListener("wheel", (event) => this.onWheel(event), { passive: false });
    stage.addEventListener("pointerdown", (event) => this.onDown(event));
    stage.addEventListener("pointermove", (event) => this.onMove(event));
    for (const name of ["pointerup", "pointercancel", "lostpointercapture"]) {
      stage.addEventListener(name, (event) => this.fingers.delete(event.pointerId));
    }
  }

  /** Show all of the picture. */
  whole() {
    Object.assign(this, { scale: 1, x: 0, y: 0 });
    this.apply();
  }

  /** Enlarge by a factor around a place of the stage, shares of its width and height. */
  by(factor, at = { x: 0.5, y: 0.5 }) {
    const scale = clamp(this.scale * factor, 1, LARGEST);
    const place = this.toPicture(at);
    Object.assign(this, { scale, x: place.x - at.x / scale, y: place.y - at.y / scale });
    this.apply();
  }

  in() {
    this.by(STEP);
  }

  out() {
    this.by(1 / STEP);
  }

  /** Make a place of the picture visible. */
  reveal({ x, y }) {
    const part = 1 / this.scale;
    this.x = clamp(this.x, x - part, x);
    this.y = clamp(this.y, y - part, y);
    this.apply();
  }

  /** The place of the picture at a place of the stage. */
  toPicture({ x, y }) {
    return { x: this.x + x / this.scale, y: this.y + y / this.scale };
  }

  /** The place of the stage where a place of the picture is seen. */
  toStage({ x, y }) {
    return { x: (x - this.x) * this.scale, y: (y - this.y) * this.scale };
  }

  /** The place of the stage under a pointer. */
  placeOf({ clientX, clientY }) {
    const { left, top, width, height } = this.stage.getBoundingClientRect();
    return { x: clamp((clientX - left) / width, 0, 1), y: clamp((clientY - top) / height, 0, 1) };
  }

  apply() {
    const part = 1 / this.scale;
    this.x = clamp(this.x, 0, 1 - part);
    this.y = clamp(this.y, 0, 1 - part);
    for (const canvas of this.canvases) {
      canvas.style.transform = `scale(${this.scale}) translate(${-100 * this.x}%, ${-100 * this.y}%)`;
    }
    this.stage.classList.toggle("zoomed", this.scale > 1);
    this.onChange();
  }

  onWheel(event) {
    // Away from the whole picture the page scrolls on.
    if (event.deltaY > 0 && this.scale === 1) {
      return;
    }
    event.preventDefault();
    this.by(Math.exp(-event.deltaY / (event.ctrlKey ? 100 : 400)), this.placeOf(event));
  }

  onDown(event) {
    if (event.target.closest(".divider")) {
      return;
    }
    this.fingers.set(event.pointerId, event);
    if (this.scale > 1 || this.fingers.size > 1) {
      this.stage.setPointerCapture(event.pointerId);
    }
  }

  onMove(event) {
    const before = this.fingers.get(event.pointerId);
    if (before === undefined) {
      return;
    }
    const [other] = [...this.fingers.values()].filter(({ pointerId }) => pointerId !== event.pointerId);
    this.fingers.set(event.pointerId, event);
    const { width, height } = this.stage.getBoundingClientRect();
    const share = other ? 0.5 : 1;
    this.x -= (share * (event.clientX - before.clientX)) / width / this.scale;
    this.y -= (share * (event.clientY - before.clientY)) / height / this.scale;
    if (other) {
      const distance = (finger) => Math.hypot(finger.clientX - other.clientX, finger.clientY - other.clientY);
      const [a, b] = [this.placeOf(event), this.placeOf(other)];
      this.by(distance(event) / Math.max(distance(before), 1), { x: (a.x + b.x) / 2, y: (a.y + b.y) / 2 });
    } else {
      this.apply();
    }
  }
}

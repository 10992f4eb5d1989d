// Several pictures as a strip of thumbnails, each with the state of its answer.

const element = (id) => document.getElementById(id);
const STATES = { waiting: "waiting", done: "segmented", failed: "failed" };

export class Strip {
  /** `onSelect(picture)` is called when the user chooses one. */
  constructor(onSelect) {
    this.onSelect = onSelect;
    this.items = new Map();
  }

  /** Show these pictures; fewer than two need no strip. */
  use(pictures) {
    this.items = new Map(pictures.length > 1 ? pictures.map((picture) => [picture, this.item(picture)]) : []);
    element("strip").replaceChildren(...this.items.values());
    element("strip").hidden = this.items.size === 0;
  }

  /** Show the state of a picture: waiting, done or failed. */
  mark(picture, state) {
    const item = this.items.get(picture);
    if (item) {
      item.dataset.state = state;
      item.querySelector(".state").textContent = STATES[state];
    }
  }

  /** Show which picture is on the screen. */
  select(picture) {
    for (const [other, item] of this.items) {
      item.querySelector("button").setAttribute("aria-current", String(other === picture));
    }
  }

  item(picture) {
    const item = element("strip-item").content.cloneNode(true).firstElementChild;
    const image = item.querySelector("img");
    image.src = URL.createObjectURL(picture.blob);
    for (const name of ["load", "error"]) {
      image.addEventListener(name, () => URL.revokeObjectURL(image.src), { once: true });
    }
    item.querySelector(".name").textContent = picture.name;
    item.querySelector("button").addEventListener("click", () => this.onSelect(picture));
    item.dataset.state = "waiting";
    item.querySelector(".state").textContent = STATES.waiting;
    return item;
  }
}

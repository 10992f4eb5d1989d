// The classes of the picture with their shares, to be shown and hidden.

const BACKGROUND = /^_*background_*$/i;

const element = (id) => document.getElementById(id);

/** A share with as many digits as a reader needs. */
export function formatShare(share) {
  return share > 0 && share < 0.001 ? "< 0.1 %" : `${(100 * share).toFixed(1)} %`;
}

export class Legend {
  /** `onChange()` is called when a class is shown or hidden. */
  constructor(onChange) {
    this.onChange = onChange;
    this.present = [];
    this.hidden = new Set();
    this.classes = [];
    element("all").addEventListener("click", () => this.setAll(true));
    element("none").addEventListener("click", () => this.setAll(false));
  }

  /** Begin with the classes of a model: all are on, but for the background, which hides what lies behind it. */
  useClasses(classes) {
    if (JSON.stringify(classes) !== JSON.stringify(this.classes)) {
      this.classes = classes;
      this.hidden = new Set(classes.filter(({ name }) => BACKGROUND.test(name)).map(({ id }) => id));
    }
  }

  /** List the classes of a label map, the largest first; what was hidden stays hidden. */
  show(labels, classes) {
    const bySize = classes.toSorted((a, b) => labels.pixels[b.id] - labels.pixels[a.id]);
    this.present = bySize.filter(({ id }) => labels.pixels[id] > 0);
    const absent = classes.filter(({ id }) => labels.pixels[id] === 0).map(({ name }) => name);
    element("legend").replaceChildren(...this.present.map((info) => this.row(info, labels.share(info.id))));
    element("absent").textContent = absent.length ? `Not in this image: ${absent.join(", ")}` : "";
  }

  isShown(id) {
    return !this.hidden.has(id);
  }

  get shown() {
    return this.present.filter(({ id }) => this.isShown(id));
  }

  get isWhole() {
    return this.shown.length === this.present.length;
  }

  /** Mark the row of a class, or of none. */
  point(id) {
    for (const row of element("legend").children) {
      row.classList.toggle("pointed", id !== null && row.dataset.id === String(id));
    }
  }

  setAll(on) {
    this.hidden = new Set(on ? [] : this.present.map(({ id }) => id));
    for (const box of element("legend").querySelectorAll("input")) {
      box.checked = on;
    }
    this.onChange();
  }

  row(info, share) {
    const row = element("legend-row").content.cloneNode(true).firstElementChild;
    row.dataset.id = String(info.id);
    row.querySelector(".swatch").style.backgroundColor = `rgb(${info.color})`;
    row.querySelector(".name").textContent = info.name;
    row.querySelector(".share").textContent = formatShare(share);
    row.querySelector(".meter span").style.width = `${100 * share}%`;
    const box = row.querySelector("input");
    box.checked = this.isShown(info.id);
    box.addEventListener("change", () => {
      this.hidden[box.checked ? "delete" : "add"](info.id);
      this.onChange();
    });
    return row;
  }
}

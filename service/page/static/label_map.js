// Class ids of an image: read from the service's answer, counted, and painted.

// Rows that are read at once, as four bytes a pixel of a large image would fill the memory.
const STRIP_ROWS = 256;

/** Class ids, row by row, with the pixels of each. */
export class LabelMap {
  constructor(ids, width, height) {
    Object.assign(this, { ids, width, height });
    this.pixels = new Uint32Array(256);
    for (const id of ids) {
      this.pixels[id] += 1;
    }
  }

  /** From a grey PNG whose values are the ids. */
  static async read(blob) {
    const bitmap = await createImageBitmap(blob, { colorSpaceConversion: "none", premultiplyAlpha: "none" });
    const { width, height } = bitmap;
    const ids = new Uint8Array(width * height);
    const canvas = new OffscreenCanvas(width, Math.min(STRIP_ROWS, height));
    const context = canvas.getContext("2d", { willReadFrequently: true });
    for (let top = 0; top < height; top += STRIP_ROWS) {
      const rows = Math.min(STRIP_ROWS, height - top);
      context.drawImage(bitmap, 0, -top);
      const { data } = context.getImageData(0, 0, width, rows);
      for (let i = 0, at = top * width; i < data.length; i += 4, at += 1) {
        ids[at] = data[i];
      }
    }
    bitmap.close();
    return new LabelMap(ids, width, height);
  }

  /** Id at a place; x and y are shares of width and height, 0..1. */
  at(x, y) {
    const column = Math.min(this.width - 1, Math.floor(x * this.width));
    const row = Math.min(this.height - 1, Math.floor(y * this.height));
    return this.ids[row * this.width + column];
  }

  share(id) {
    return this.pixels[id] / this.ids.length;
  }

  /** Paint the classes that `isShown` on a canvas of any size; what is not shown is transparent. */
  paint(canvas, classes, isShown) {
    const colours = new Uint8ClampedArray(4 * 256);
    for (const { id, color } of classes) {
      colours.set([...color, isShown(id) ? 255 : 0], 4 * id);
    }
    const packed = new Uint32Array(colours.buffer);
    const image = new ImageData(canvas.width, canvas.height);
    const painted = new Uint32Array(image.data.buffer);
    let at = 0;
    for (let y = 0; y < canvas.height; y += 1) {
      const row = Math.floor(((y + 0.5) * this.height) / canvas.height) * this.width;
      for (let x = 0; x < canvas.width; x += 1) {
        painted[at] = packed[this.ids[row + Math.floor(((x + 0.5) * this.width) / canvas.width)]];
        at += 1;
      }
    }
    canvas.getContext("2d").putImageData(image, 0, 0);
  }
}

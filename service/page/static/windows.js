// How many windows `mode=tile` needs for an image: the plan of the service, service/imaging/tiling.py.

// Pixels of a cell of the model's output, and the share of a window that neighbours have in common.
const CELL = 4;
const OVERLAP = 0.25;

/** Windows of an image, 1 where the model sees it at once. Sizes have `width` and `height` in pixels. */
export function countWindows(image, window) {
  return along(image.width, window.width) * along(image.height, window.height);
}

function along(side, windowSide) {
  const [cells, window] = [Math.ceil(side / CELL), windowSide / CELL];
  const step = Math.max(1, Math.floor(window * (1 - OVERLAP)));
  return 1 + Math.ceil(Math.max(0, cells - window) / step);
}

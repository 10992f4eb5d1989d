// The ways in: choose, drop, paste, and the example pictures; videos are told what to use.

import { Problem, getFile } from "./service.js";

const VIDEO = /\.(avi|m4v|mkv|mov|mp4|mpe?g|webm)$/i;
const element = (id) => document.getElementById(id);

/** `onPictures(list)` gets `{ blob, name }` of what was chosen, `onProblem(problem)` why something was not taken. */
export function listenToSources({ onPictures, onProblem }) {
  const take = (files) => takeFiles([...files], onPictures, onProblem);
  element("file").addEventListener("change", ({ target }) => {
    take(target.files);
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
    take(event.dataTransfer.files);
  });
  window.addEventListener("paste", (event) => take(event.clipboardData.files));
  element("examples").addEventListener("click", async ({ target }) => {
    const button = target.closest("button");
    if (button) {
      try {
        onPictures([{ blob: await getFile(button.querySelector("img").src), name: button.dataset.name }]);
      } catch (problem) {
        onProblem(problem);
      }
    }
  });
}

function takeFiles(files, onPictures, onProblem) {
  const videos = files.filter(({ name, type }) => type.startsWith("video/") || VIDEO.test(name));
  const pictures = files.filter((file) => !videos.includes(file));
  if (pictures.length) {
    onPictures(pictures.map((file) => ({ blob: file, name: file.name })));
  }
  if (videos.length) {
    const [{ name }] = videos;
    const quoted = /^[\w.-]+$/.test(name) ? name : `'${name.replaceAll("'", "'\\''")}'`;
    onProblem(
      new Problem("This page takes pictures. Videos are segmented by a command:", {
        title: `${name} is a video.`,
        command: `ecenet-segment ${quoted} -o out/ --format overlay --url ${new URL(".", location.href).href}`,
      }),
    );
  }
}

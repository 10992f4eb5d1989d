// A picture from the camera, in a dialog.

const element = (id) => document.getElementById(id);

/** The camera's dialog; `onPicture(blob)` gets what was taken, `onError(text)` why there is none. */
export class Camera {
  constructor({ onPicture, onError }) {
    this.dialog = element("camera");
    this.video = element("camera-video");
    this.stream = null;
    this.openings = 0;
    this.onError = onError;
    element("open-camera").addEventListener("click", () => this.open());
    element("close-camera").addEventListener("click", () => this.dialog.close());
    element("shoot").addEventListener("click", async () => {
      const picture = await this.shoot();
      this.dialog.close();
      onPicture(picture);
    });
    // Escape closes a dialog too.
    this.dialog.addEventListener("close", () => this.stop());
  }

  async open() {
    if (!navigator.mediaDevices) {
      this.onError("The browser gives its camera to pages from https:// and localhost only.");
      return;
    }
    element("shoot").disabled = true;
    this.dialog.showModal();
    const opening = ++this.openings;
    // The dialog may be closed, and open again, before the camera has started.
    const isOver = () => !this.dialog.open || opening !== this.openings;
    try {
      const wanted = { video: { facingMode: "environment", width: { ideal: 1920 } } };
      const stream = await navigator.mediaDevices.getUserMedia(wanted);
      if (isOver()) {
        stopTracks(stream);
        return;
      }
      this.video.srcObject = this.stream = stream;
      await this.video.play();
      if (isOver()) {
        return;
      }
      element("shoot").disabled = false;
      element("shoot").focus();
    } catch (error) {
      if (isOver()) {
        return;
      }
      this.dialog.close();
      this.onError(`The camera cannot be used: ${error.message}`);
    }
  }

  async shoot() {
    const canvas = new OffscreenCanvas(this.video.videoWidth, this.video.videoHeight);
    canvas.getContext("2d").drawImage(this.video, 0, 0);
    return canvas.convertToBlob({ type: "image/jpeg", quality: 0.92 });
  }

  stop() {
    stopTracks(this.stream);
    this.stream = this.video.srcObject = null;
  }
}

function stopTracks(stream) {
  for (const track of stream?.getTracks() ?? []) {
    track.stop();
  }
}

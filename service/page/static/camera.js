// A picture from the camera, in a dialog.

const element = (id) => document.getElementById(id);

/** The camera's dialog; `onPicture(blob)` gets what was taken, `onError(text)` why there is none. */
export class Camera {
  constructor({ onPicture, onError }) {
    this.dialog = element("camera");
    this.video = element("camera-video");
    this.stream = null;
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
    try {
      const wanted = { video: { facingMode: "environment", width: { ideal: 1920 } } };
      this.stream = await navigator.mediaDevices.getUserMedia(wanted);
      if (!this.dialog.open) {
        this.stop();
        return;
      }
      this.video.srcObject = this.stream;
      await this.video.play();
      element("shoot").disabled = false;
      element("shoot").focus();
    } catch (error) {
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
    for (const track of this.stream?.getTracks() ?? []) {
      track.stop();
    }
    this.stream = this.video.srcObject = null;
  }
}

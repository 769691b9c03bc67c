// The slice slider and the strip under it: how sure the network is of each slice.

const THUMB = 14; // pixels, as in the style sheet
export const DOUBTFUL = 0.5;

export class Strip {
  // on: go(axis, slice)
  constructor({ slider, canvas, axisName, number, confidence }, go) {
    Object.assign(this, { slider, canvas, axisName, number, confidenceText: confidence });
    this.values = [];
    this.present = new Uint8Array(0);
    this.prompted = []; // slices
    this.axis = 0;
    this.at = 0;
    this.count = 0;
    this.colour = "#4aa3ff";
    slider.addEventListener("input", () => go(this.axis, Number(slider.value)));
    canvas.addEventListener("pointerdown", (event) => {
      this.isHeld = true;
      canvas.setPointerCapture(event.pointerId);
      go(this.axis, this.sliceAt(event));
    });
    canvas.addEventListener("pointermove", (event) => {
      const slice = this.sliceAt(event);
      canvas.title = `Slice ${slice + 1}: ${this.words(slice)}`;
      if (this.isHeld) go(this.axis, slice);
    });
    for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, () => (this.isHeld = false));
    new ResizeObserver(() => this.draw()).observe(canvas);
  }

  begin(axis, count, axisName) {
    [this.axis, this.count] = [axis, count];
    this.slider.max = String(Math.max(0, count - 1));
    this.axisName.textContent = axisName;
    this.slider.setAttribute("aria-label", `${axisName} slice`);
  }

  show(at) {
    this.at = at;
    this.slider.value = String(at);
    this.number.textContent = `${at + 1} / ${this.count}`;
    this.slider.setAttribute("aria-valuetext", `Slice ${at + 1} of ${this.count}, ${this.words(at)}`);
    this.tellConfidence();
    this.draw();
  }

  fill({ values, present, prompted, colour }) {
    Object.assign(this, { values, present, prompted, colour });
    this.tellConfidence();
    this.draw();
  }

  words(slice) {
    const value = this.values[slice];
    if (value === null || value === undefined) return "not computed";
    const drawn = this.present[slice] ? "" : ", object not here";
    return `confidence ${value.toFixed(2)}${drawn}`;
  }

  // Where the object is drawn and the network is unsure of it; where it is not, there is nothing to look at.
  isDoubtful(slice) {
    const value = this.values[slice];
    return value !== null && value !== undefined && value < DOUBTFUL && Boolean(this.present[slice]);
  }

  tellConfidence() {
    const value = this.values[this.at];
    const isKnown = value !== null && value !== undefined;
    this.confidenceText.replaceChildren("Confidence");
    const strong = document.createElement("strong");
    strong.textContent = isKnown ? value.toFixed(2) : "–";
    this.confidenceText.prepend(strong);
    this.confidenceText.toggleAttribute("data-doubtful", this.isDoubtful(this.at));
    const known = this.values.filter((each) => each !== null);
    const doubtful = this.values.filter((_, slice) => this.isDoubtful(slice)).length;
    this.canvas.setAttribute("aria-label",
      `Confidence per slice: ${known.length} of ${this.count} slices computed, ${doubtful} with the object below ${DOUBTFUL}`);
  }

  // Pixels of slices' middles agree with the slider's thumb.
  xOf(slice, width) {
    return this.count < 2 ? width / 2 : THUMB / 2 + ((width - THUMB) * slice) / (this.count - 1);
  }

  sliceAt(event) {
    const { left, width } = this.canvas.getBoundingClientRect();
    const share = (event.clientX - left - THUMB / 2) / Math.max(1, width - THUMB);
    return Math.min(Math.max(Math.round(share * (this.count - 1)), 0), this.count - 1);
  }

  draw() {
    const { canvas, count } = this;
    const ratio = window.devicePixelRatio || 1;
    const [width, height] = [canvas.clientWidth, canvas.clientHeight];
    if (!width || !count) return;
    [canvas.width, canvas.height] = [Math.round(width * ratio), Math.round(height * ratio)];
    const pen = canvas.getContext("2d");
    pen.scale(ratio, ratio);
    const pitch = count > 1 ? (width - THUMB) / (count - 1) : THUMB;
    const bar = Math.max(1, pitch - (pitch > 4 ? 1 : 0));
    const floor = height - 5;
    pen.fillStyle = "#1e2124";
    pen.fillRect(0, 0, width, floor);
    for (let slice = 0; slice < count; slice++) {
      const value = this.values[slice];
      if (value === null || value === undefined) continue;
      const x = this.xOf(slice, width) - bar / 2;
      const tall = Math.max(2, Math.min(1, value) * floor);
      pen.fillStyle = this.present[slice] ? (this.isDoubtful(slice) ? "#f0b64a" : this.colour) : "#4a5057";
      pen.fillRect(x, floor - tall, bar, tall);
    }
    pen.fillStyle = "#fff";
    for (const slice of this.prompted) {
      const x = this.xOf(slice, width);
      pen.beginPath();
      pen.moveTo(x - 3.5, height);
      pen.lineTo(x + 3.5, height);
      pen.lineTo(x, height - 4.5);
      pen.fill();
    }
    pen.fillStyle = "rgb(255 255 255 / 0.9)";
    pen.fillRect(Math.round(this.xOf(this.at, width)) - 0.75, 0, 1.5, floor);
  }
}

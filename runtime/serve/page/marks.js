// What is drawn over the images: names of planes, sides of the body, the crosshair, prompts, and what is being drawn.

const CROSSHAIR = "rgb(110 190 255 / 0.55)";
const INCLUDED = "#5fd38d";
const EXCLUDED = "#ff7b72";
const NARROW = 260; // pixels, where words would lie on each other
const FONT = "12px system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif";

export class Marks {
  // model: {viewer, prompts(), drawn(), isEmpty}
  constructor(canvas, model) {
    [this.canvas, this.model] = [canvas, model];
    this.pen = canvas.getContext("2d");
  }

  draw() {
    const { viewer } = this.model;
    const { pen, canvas } = this;
    const ratio = window.devicePixelRatio || 1;
    const [width, height] = [canvas.clientWidth, canvas.clientHeight];
    if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
      [canvas.width, canvas.height] = [Math.round(width * ratio), Math.round(height * ratio)];
    }
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.clearRect(0, 0, width, height);
    if (!viewer.grid) return;
    pen.font = FONT;
    const isPictured = viewer.picture && !viewer.isAlone && !viewer.tiles.some(({ type }) => type > 2);
    if (isPictured) this.picture(viewer.picture);
    else if (viewer.isSlow && !viewer.isAlone) this.pending();
    for (const tile of viewer.tiles) {
      const around = this.around(tile);
      pen.save();
      pen.beginPath();
      pen.rect(around.left, around.top, around.width, around.height);
      pen.clip();
      if (tile.type <= 2) {
        pen.save();
        pen.beginPath();
        pen.rect(tile.left, tile.top, tile.width, tile.height);
        pen.clip();
        this.crosshair(tile);
        this.prompts(tile);
        this.drawn(tile);
        pen.restore();
      }
      this.words(tile, around);
      pen.restore();
    }
  }

  // The last 3-D view, where a new one is not drawn yet.
  picture(picture) {
    const { viewer } = this.model;
    const { clientWidth: width, clientHeight: height } = this.canvas;
    const [left, top, w, h] = viewer.tile(3);
    this.pen.drawImage(picture, left * width, top * height, w * width, h * height);
    this.text("3-D", left * width + 10, top * height + 17, "left", "#c8cdd2");
  }

  // Where the 3-D view will be, once nothing else goes on.
  pending() {
    const { viewer } = this.model;
    if (viewer.tiles.some(({ type }) => type > 2)) return;
    const { clientWidth: width, clientHeight: height } = this.canvas;
    const [left, top] = viewer.tile(3);
    this.text("3-D  follows", left * width + 10, top * height + 17, "left", "#8b929a");
  }

  // The part of the canvas that a tile may use: images are centred in it.
  around(tile) {
    const { viewer } = this.model;
    const { clientWidth: width, clientHeight: height } = this.canvas;
    if (viewer.isAlone) return { left: 0, top: 0, width, height };
    const [left, top, w, h] = viewer.tile(tile.index);
    return { left: left * width, top: top * height, width: w * width, height: h * height };
  }

  words(tile, around) {
    const { pen } = this;
    const { viewer } = this.model;
    const { name, sides, axis } = viewer.describe(tile);
    const isWide = around.width > NARROW;
    const number = sides && isWide ? `  ${viewer.voxel[axis] + 1} / ${viewer.grid.shape[axis]}` : "";
    this.text(`${name}${number}`, around.left + 10, around.top + 17, "left", "#c8cdd2");
    if (!sides) return;
    const [middleX, middleY] = [around.left + around.width / 2, around.top + around.height / 2];
    const faint = "#8b929a";
    const end = around.left + 10 + pen.measureText(`${name}${number}`).width;
    this.text(sides[0], Math.max(middleX, end + 12), around.top + 17, "center", faint);
    this.text(sides[1], middleX, around.top + around.height - 8, "center", faint);
    this.text(sides[2], around.left + 10, middleY, "left", faint);
    this.text(sides[3], around.left + around.width - 10, middleY, "right", faint);
  }

  text(words, x, y, align, colour) {
    const { pen } = this;
    pen.textAlign = align;
    pen.lineWidth = 3;
    pen.strokeStyle = "rgb(0 0 0 / 0.75)";
    pen.strokeText(words, x, y);
    pen.fillStyle = colour;
    pen.fillText(words, x, y);
  }

  crosshair(tile) {
    const { pen } = this;
    const { viewer } = this.model;
    const [x, y] = viewer.pixelOf(viewer.voxel, tile).map((at) => Math.round(at) + 0.5);
    const gap = 9;
    pen.strokeStyle = CROSSHAIR;
    pen.lineWidth = 1;
    pen.beginPath();
    pen.moveTo(tile.left, y);
    pen.lineTo(x - gap, y);
    pen.moveTo(x + gap, y);
    pen.lineTo(tile.left + tile.width, y);
    pen.moveTo(x, tile.top);
    pen.lineTo(x, y - gap);
    pen.moveTo(x, y + gap);
    pen.lineTo(x, tile.top + tile.height);
    pen.stroke();
  }

  prompts(tile) {
    const { viewer } = this.model;
    for (const prompt of this.model.prompts()) {
      if (!prompt.box || !viewer.isOnSlice(prompt.box, tile)) continue;
      if (prompt.kind === "point") this.point(tile, prompt);
      else if (prompt.kind === "bbox") this.box(tile, prompt.box, prompt.positive);
      else if (prompt.kind === "scribble" || prompt.kind === "lasso") this.bracket(tile, prompt);
    }
  }

  point(tile, prompt) {
    const { pen } = this;
    const [x, y] = this.model.viewer.pixelOf(prompt.box.map(([start]) => start), tile);
    pen.beginPath();
    pen.arc(x, y, 5.5, 0, 2 * Math.PI);
    pen.fillStyle = prompt.positive ? INCLUDED : EXCLUDED;
    pen.fill();
    pen.lineWidth = 1.5;
    pen.strokeStyle = "#fff";
    pen.stroke();
    pen.beginPath();
    pen.moveTo(x - 2.5, y);
    pen.lineTo(x + 2.5, y);
    if (prompt.positive) {
      pen.moveTo(x, y - 2.5);
      pen.lineTo(x, y + 2.5);
    }
    pen.strokeStyle = "#08130c";
    pen.stroke();
  }

  // Corners are at voxels' edges, half a voxel out of their centres.
  corners(tile, box) {
    const { viewer } = this.model;
    const a = viewer.pixelOf(box.map(([start]) => start - 0.5), tile);
    const b = viewer.pixelOf(box.map(([, stop]) => stop - 0.5), tile);
    return [Math.min(a[0], b[0]), Math.min(a[1], b[1]), Math.abs(a[0] - b[0]), Math.abs(a[1] - b[1])];
  }

  box(tile, box, isIncluded = true) {
    const { pen } = this;
    pen.setLineDash([6, 4]);
    pen.lineWidth = 1.5;
    pen.strokeStyle = isIncluded ? INCLUDED : EXCLUDED;
    pen.strokeRect(...this.corners(tile, box));
    pen.setLineDash([]);
  }

  // A stroke is not kept; where it was is.
  bracket(tile, prompt) {
    const { pen } = this;
    const [x, y, w, h] = this.corners(tile, prompt.box);
    pen.lineWidth = 1;
    pen.strokeStyle = prompt.positive ? INCLUDED : EXCLUDED;
    pen.beginPath();
    pen.ellipse(x + w / 2, y + h / 2, Math.max(w / 2, 3), Math.max(h / 2, 3), 0, 0, 2 * Math.PI);
    pen.setLineDash([2, 3]);
    pen.stroke();
    pen.setLineDash([]);
  }

  // The box or stroke under way.
  drawn(tile) {
    const { pen } = this;
    const drawn = this.model.drawn();
    if (!drawn || drawn.type !== tile.type) return;
    if (drawn.box) {
      this.box(tile, drawn.box, drawn.isIncluded);
      return;
    }
    if (!drawn.pixels.length) return;
    pen.lineCap = pen.lineJoin = "round";
    pen.lineWidth = drawn.width;
    pen.strokeStyle = drawn.isIncluded ? "rgb(95 211 141 / 0.7)" : "rgb(255 123 114 / 0.6)";
    pen.beginPath();
    drawn.pixels.forEach(([x, y], n) => (n ? pen.lineTo(x, y) : pen.moveTo(x, y)));
    if (drawn.pixels.length === 1) pen.lineTo(drawn.pixels[0][0] + 0.1, drawn.pixels[0][1]);
    pen.stroke();
  }
}

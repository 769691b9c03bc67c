// The pointer on the images: prompts with the left button, windows with the right, panning with the middle, slices with
// the wheel. One finger is the left button, two zoom and pan.

import { coverPath } from "./strokes.js";

const STILL = 4; // pixels that a click may move
const WHEEL_STEP = 40; // of a fine wheel or a touch pad
const BRUSH = { scribble: 0.6, erase: 2.5 }; // radius in mm on the screen's plane, at least half a voxel
const CURSORS = { move: "move", include: "crosshair", exclude: "crosshair", box: "crosshair", scribble: "crosshair", erase: "cell" };

export class Tools {
  tool = "include";
  drawn = null;

  // on: {point(kji, positive), box(box, positive), stroke(kind, box, bits, positive), hover(kji), window(lower, upper), moved(), tool(name)}
  constructor(viewer, on) {
    [this.viewer, this.on] = [viewer, on];
    this.wheel = 0;
    this.fingers = new Map(); // pointers of a touch screen that are down: where they are
    this.pinch = null; // where two of them began: {middle, distance, move}
    const { canvas } = viewer;
    canvas.addEventListener("pointerdown", (event) => this.down(event));
    canvas.addEventListener("pointermove", (event) => this.move(event));
    canvas.addEventListener("pointerup", (event) => this.up(event));
    canvas.addEventListener("pointercancel", (event) => this.cancel(event));
    canvas.addEventListener("pointerleave", () => this.on.hover(null));
    canvas.addEventListener("contextmenu", (event) => event.preventDefault());
    canvas.addEventListener("wheel", (event) => this.roll(event), { passive: false });
  }

  choose(tool) {
    this.stop();
    this.tool = tool;
    this.viewer.canvas.style.cursor = CURSORS[tool];
    this.on.tool(tool);
  }

  // Forget what is being drawn. Returns whether there was anything.
  stop() {
    const was = this.drawn !== null;
    this.drag = this.drawn = null;
    if (was) this.viewer.draw();
    return was;
  }

  at(event) {
    const { left, top } = this.viewer.canvas.getBoundingClientRect();
    return [event.clientX - left, event.clientY - top];
  }

  // Without a pointer: Enter begins a box or stroke at the crosshair, which draws it from there, and Enter ends it.
  // Returns whether the tool is one that draws.
  enter(isNegative) {
    if (this.tool !== "box" && !(this.tool in BRUSH)) return false;
    const { viewer } = this;
    const tile = viewer.tiles.find(({ type }) => type === viewer.plane);
    if (this.drag) this.up();
    else if (tile) {
      this.drag = { tile, isNegative, kind: this.tool, voxel: viewer.voxel, isKeyed: true, isStill: false };
      if (this.tool !== "box") this.beginStroke();
      this.follow();
    }
    return true;
  }

  // The crosshair is somewhere else; what the keyboard draws ends where the slice does.
  follow() {
    const { drag, viewer } = this;
    if (!drag?.isKeyed) return;
    const at = viewer.voxel;
    const axis = viewer.axesOf(drag.tile.type);
    if (at[axis] !== drag.voxel[axis]) {
      this.stop();
      return;
    }
    if (drag.kind === "box") this.drawn = { type: drag.tile.type, box: boxOf(drag.voxel, at), isIncluded: !drag.isNegative };
    else {
      this.drawn.path.push(at);
      this.drawn.pixels = this.drawn.path.map((voxel) => viewer.pixelOf(voxel, drag.tile));
    }
    viewer.draw();
  }

  down(event) {
    if (this.drag?.isKeyed) this.stop();
    if (!this.viewer.grid || this.viewer.isLost) return; // nobody points at what is not seen
    const [x, y] = this.at(event);
    if (event.pointerType === "touch") this.fingers.set(event.pointerId, [x, y]);
    if (this.fingers.size > 1) {
      this.beginPinch();
      return;
    }
    if (this.drag) return;
    const tile = this.viewer.tileAt(x, y);
    if (!tile) return;
    this.viewer.canvas.setPointerCapture(event.pointerId);
    const isNegative = event.shiftKey || event.altKey;
    this.drag = {
      tile, x, y, lastX: x, lastY: y, isNegative, pointer: event.pointerId,
      kind: this.kindOf(event, tile),
      voxel: this.viewer.voxelAt(tile, x, y),
      window: this.viewer.window,
      isStill: true,
    };
    if (this.drag.kind === "scribble" || this.drag.kind === "erase") {
      if (!this.drag.voxel) this.drag.kind = "look";
      else this.beginStroke();
    }
  }

  kindOf(event, tile) {
    if (tile.type > 2) return "turn";
    if (event.button === 1) return "pan";
    if (event.button === 2) return "window";
    return this.tool;
  }

  move(event) {
    if (!this.viewer.grid) return;
    const [x, y] = this.at(event);
    const { drag, viewer } = this;
    if (this.fingers.has(event.pointerId)) this.fingers.set(event.pointerId, [x, y]);
    if (this.pinch) {
      this.dragPinch();
      return;
    }
    if (drag && !drag.isKeyed && drag.pointer !== event.pointerId) return;
    if (!drag || drag.isKeyed) {
      this.on.hover(viewer.voxelAt(viewer.tileAt(x, y), x, y));
      return;
    }
    if (Math.hypot(x - drag.x, y - drag.y) > STILL) drag.isStill = false;
    const [dx, dy] = [x - drag.lastX, y - drag.lastY];
    [drag.lastX, drag.lastY] = [x, y];
    if (drag.kind === "turn") viewer.turn(dx, dy);
    else if (drag.kind === "pan") viewer.pan(drag.tile, dx, dy);
    else if (drag.kind === "window") this.dragWindow(x, y);
    else if (drag.kind === "box") this.dragBox(x, y);
    else if (drag.kind === "scribble" || drag.kind === "erase") this.dragStroke(x, y);
    else if (!drag.isStill) this.look(x, y);
  }

  // Two fingers are down: what the first one began is none.
  beginPinch() {
    this.stop();
    const { middle, distance } = betweenOf(this.fingers);
    const tile = this.viewer.tileAt(...middle);
    this.pinch = { middle, distance, move: tile ? this.viewer.hold(tile, middle) : () => {} };
  }

  dragPinch() {
    if (this.fingers.size < 2) return;
    const { middle, distance } = betweenOf(this.fingers);
    const { pinch } = this;
    pinch.move(distance / Math.max(pinch.distance, 1), middle[0] - pinch.middle[0], middle[1] - pinch.middle[1]);
  }

  cancel(event) {
    this.fingers.delete(event.pointerId);
    if (!this.fingers.size) this.pinch = null;
    this.stop();
  }

  up(event) {
    if (event) this.fingers.delete(event.pointerId);
    if (this.pinch) {
      if (this.fingers.size > 1) this.beginPinch();
      else if (!this.fingers.size) this.pinch = null; // one finger that is left over draws nothing
      return;
    }
    if (event && this.drag && this.drag.pointer !== event.pointerId) return;
    const { drag, drawn } = this;
    this.drag = this.drawn = null;
    if (!drag) return;
    const kind = drag.kind;
    if (kind === "include" || kind === "exclude") {
      if (drag.isStill && drag.voxel) this.on.point(drag.voxel, kind === "include" && !drag.isNegative);
    } else if (kind === "move") {
      if (drag.isStill && drag.voxel) this.go(drag.voxel);
    } else if (kind === "box" && drawn?.box) {
      if (!drag.isStill) this.on.box(drawn.box, !drag.isNegative);
    } else if (drawn?.path?.length) {
      const axis = this.viewer.axesOf(drag.tile.type);
      const { box, bits } = coverPath(drawn.path, axis, drawn.radius, this.viewer.grid.shape);
      if (kind === "erase") this.on.stroke("lasso", box, bits, false);
      else this.on.stroke("scribble", box, bits, drawn.isIncluded);
    }
    this.viewer.draw();
  }

  roll(event) {
    const { viewer } = this;
    if (!viewer.grid) return;
    event.preventDefault();
    const [x, y] = this.at(event);
    const tile = viewer.tileAt(x, y);
    if (!tile) return;
    const lines = event.deltaMode === 1 ? event.deltaY * WHEEL_STEP : event.deltaY;
    if (tile.type > 2 || event.ctrlKey) {
      viewer.zoom(Math.exp(-lines / 400), tile.type > 2);
      return;
    }
    this.wheel += lines;
    const steps = Math.trunc(this.wheel / WHEEL_STEP);
    if (!steps) return;
    this.wheel -= steps * WHEEL_STEP;
    this.step(viewer.axesOf(tile.type), Math.sign(steps) * Math.min(Math.abs(steps), 3));
  }

  // Go so many slices on along an axis of the array.
  step(axis, count) {
    const voxel = this.viewer.voxel;
    voxel[axis] += count;
    this.go(voxel);
  }

  go(voxel) {
    this.viewer.goTo(voxel);
    this.on.moved();
  }

  look(x, y) {
    const voxel = this.viewer.nearestVoxel(this.drag.tile, x, y);
    this.go(voxel);
    this.on.hover(voxel);
  }

  // To the right is wider, down is darker, as radiologists know it.
  dragWindow(x, y) {
    const { drag, viewer } = this;
    const [lower, upper] = drag.window;
    const width = upper - lower;
    const wider = Math.max(width * Math.exp((x - drag.x) / 250), width * 1e-3);
    const middle = (lower + upper) / 2 + ((y - drag.y) / 300) * width;
    this.on.window(middle - wider / 2, middle + wider / 2);
    viewer.draw();
  }

  dragBox(x, y) {
    const { drag, viewer } = this;
    const a = viewer.nearestVoxel(drag.tile, drag.x, drag.y);
    const b = viewer.nearestVoxel(drag.tile, x, y);
    this.drawn = { type: drag.tile.type, box: boxOf(a, b), isIncluded: !drag.isNegative };
    viewer.draw();
  }

  beginStroke() {
    const { drag, viewer } = this;
    const mm = Math.max(viewer.mmPerPixel(drag.tile), 1e-6);
    const axis = viewer.axesOf(drag.tile.type);
    const spacing = viewer.volume.spacing_mm.filter((_, each) => each !== axis);
    const voxel = Math.min(...spacing);
    const radius = Math.max(0.5, BRUSH[drag.kind] / voxel);
    this.drawn = {
      type: drag.tile.type,
      pixels: [[drag.x, drag.y]],
      path: [drag.voxel],
      radius,
      width: Math.max(2, (2 * radius * voxel) / mm),
      isIncluded: drag.kind === "scribble" && !drag.isNegative,
    };
    viewer.draw();
  }

  dragStroke(x, y) {
    const { drawn, drag, viewer } = this;
    if (!drawn) return;
    drawn.pixels.push([x, y]);
    drawn.path.push(viewer.nearestVoxel(drag.tile, x, y));
    viewer.draw();
  }
}

function betweenOf(fingers) {
  const [[x0, y0], [x1, y1]] = fingers.values();
  return { middle: [(x0 + x1) / 2, (y0 + y1) / 2], distance: Math.hypot(x1 - x0, y1 - y0) };
}

// The box between two voxels, both in it.
function boxOf(a, b) {
  return a.map((at, axis) => [Math.min(at, b[axis]), Math.max(at, b[axis]) + 1]);
}

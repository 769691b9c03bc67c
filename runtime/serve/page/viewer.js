// NiiVue as this page uses it: planes and a 3-D view in one canvas, labels patched box by box, and where voxels lie.
// Nothing outside this file knows NiiVue.

import { Grid } from "./grid.js";
import { factorsOf, reduced, voxelsOf } from "./reduce.js";

const PLANES = ["Axial", "Coronal", "Sagittal"]; // NiiVue's slice types 0, 1, 2
const DEPTH = [2, 1, 0]; // the viewer's axis that each plane is a slice of
const IN_PLANE = [[0, 1], [0, 2], [1, 2]]; // the viewer's axes that run across and up in each
const SEVERAL = 3;
const SOLID = 4;
const SIDES = [["A", "P", "R", "L"], ["S", "I", "R", "L"], ["S", "I", "P", "A"]]; // top, bottom, left, right
const LABELS_TEXTURE = 33991; // NiiVue keeps drawings in texture unit 7
const MAX_ZOOM = 20;
const NARROW = 1e-3; // ranges of values below which NiiVue, whose windows are at least 1e-5 wide, is given larger ones
const SLOW_MS = 150; // that a frame with the 3-D view may take
const IDLE_MS = 700;
const SOFTWARE = /swiftshader|llvmpipe|softpipe|basic render|software/i;
const SHADE = 0.25; // of objects in 3-D
const BODY = 0.28; // opacity in 3-D, once there is an object

export class Viewer {
  grid = null;
  volume = null;
  layout = "main";
  plane = 0; // the one that is large, or alone
  onDraw = () => {};
  hasObjects = () => false;
  onLost = () => {};
  onRestored = () => {};

  constructor(canvas) {
    this.canvas = canvas;
    this.isPlanned = false;
    this.toDraw = []; // who wants to hear of the next frame
    this.drawn = []; // who wants to hear of the one that is under way
    this.opacity = 0.45;
    this.areVisible = true;
    this.isSlow = false;
    this.isBusy = false;
    this.picture = null; // of the 3-D view, on slow machines
    this.isLost = false; // the graphics card was reset, as when a laptop has slept: nothing is drawn until it is back
    canvas.addEventListener("webglcontextlost", (event) => {
      event.preventDefault();
      this.isLost = true;
      this.draw();
      this.onLost();
    });
    canvas.addEventListener("webglcontextrestored", () => this.onRestored());
  }

  async start() {
    this.nv?.cleanup();
    this.nv = new window.niivue.Niivue({
      interactive: false,
      dragAndDropEnabled: false,
      logLevel: "error",
      backColor: [0, 0, 0, 1],
      crosshairWidth: 0,
      isOrientationTextVisible: false,
      isRadiologicalConvention: true,
      show3Dcrosshair: false,
      loadingText: "",
    });
    // Its fonts and surfaces are pictures in data: addresses, which the page's policy keeps out; no text of it is shown.
    this.nv.loadPngAsTexture = async () => null;
    await this.nv.attachToCanvas(this.canvas, false);
    [this.isLost, this.fence] = [false, null];
    this.nv.drawOpacity = this.opacity;
    this.nv.renderDrawAmbientOcclusion = SHADE;
    this.isSlow = SOFTWARE.test(rendererOf(this.nv.gl));
    this.skipGradients();
    this.letObjectsShine();
    const { drawScene } = this.nv;
    // Whatever draws, its own resizing too, is followed by our marks.
    this.nv.drawScene = (...words) => {
      const done = drawScene.apply(this.nv, words);
      this.onDraw();
      return done;
    };
  }

  // NiiVue works out gradients of the whole volume with every change of the window, for a lighting that is not used
  // here. Its two passes over the volume are left to a single pixel of each slice.
  skipGradients() {
    const { nv } = this;
    const { refreshLayers } = nv;
    const onePixel = {
      uniforms: {},
      use: (gl) => {
        gl.enable(gl.SCISSOR_TEST);
        gl.scissor(0, 0, 1, 1);
      },
    };
    nv.blurShader = nv.sobelFirstOrderShader = onePixel;
    nv.refreshLayers = (...words) => {
      refreshLayers.apply(nv, words);
      nv.gl.disable(nv.gl.SCISSOR_TEST);
    };
  }

  // In 3-D the body is a shadow around the objects, which are whole there whatever their opacity on the planes is.
  letObjectsShine() {
    const { nv } = this;
    const { drawImage3D } = nv;
    nv.drawImage3D = (...words) => {
      const isAny = this.areVisible && this.hasObjects();
      const shader = nv.renderShader;
      shader.use(nv.gl);
      nv.gl.uniform1f(shader.uniforms.backOpacity, isAny ? BODY : 1);
      nv.drawOpacity = this.areVisible ? 1 : 0;
      drawImage3D.apply(nv, words);
      nv.drawOpacity = this.areVisible ? this.opacity : 0;
    };
  }

  async show(buffer, described) {
    const { nv } = this;
    [this.grid, this.volume, this.picture] = [null, null, null]; // nothing is drawn meanwhile
    for (const old of [...nv.volumes]) nv.removeVolume(old);
    this.scale = scaleOf(described);
    const voxels = voxelsOf(buffer);
    if (this.scale !== 1) voxels.forEach((value, n) => (voxels[n] = value * this.scale));
    const factors = factorsOf(described.shape, nv.gl.getParameter(nv.gl.MAX_3D_TEXTURE_SIZE));
    this.isReduced = factors.some((factor) => factor > 1);
    const shown = this.isReduced ? reduced(buffer, described.shape, factors) : buffer;
    const [lower, upper] = described.window.map((value) => value * this.scale);
    const name = "volume.nii";
    await nv.addVolumeFromUrl({ url: name, name, buffer: shown, colormap: "gray", cal_min: lower, cal_max: above(lower, upper) });
    const image = nv.volumes[0];
    this.volume = described;
    this.voxels = this.isReduced ? voxels : image.img;
    this.grid = new Grid(described.shape, image.permRAS, factors);
    nv.drawBitmap = new Uint8Array(this.grid.size[0] * this.grid.size[1] * this.grid.size[2]);
    nv.drawTexture = nv.r8Tex(nv.drawTexture, LABELS_TEXTURE, nv.back.dims, true);
    this.home();
    this.plane = DEPTH.indexOf(this.grid.viewerAxis(0));
    this.setLayout(this.layout);
    this.goTo(described.shape.map((length) => Math.floor(length / 2)));
  }

  // Drawing is asked for often; it is done once a frame, and not before the graphics card is through with the last one.
  // Without a graphics card the 3-D view follows once nothing else goes on, and its last picture stands meanwhile.
  draw(isSolid = false) {
    this.wantsSolid ||= isSolid || !this.isSlow;
    if (!this.wantsSolid) {
      clearTimeout(this.idle);
      this.idle = setTimeout(() => this.draw(!this.isBusy), IDLE_MS);
    }
    if (this.isPlanned) return;
    this.isPlanned = true;
    requestAnimationFrame(() => this.drawWhenFree());
  }

  drawWhenFree() {
    if (this.isDrawing()) requestAnimationFrame(() => this.drawWhenFree());
    else this.drawNow();
  }

  drawNow() {
    this.isPlanned = false;
    if (this.isLost) for (const call of [...this.drawn.splice(0), ...this.toDraw.splice(0)]) call();
    if (this.isLost || !this.grid) return;
    const isSolid = this.wantsSolid;
    this.wantsSolid = false;
    this.placeTiles(isSolid);
    this.nv.drawScene();
    if (this.isSlow && isSolid) this.keepPicture();
    const { gl } = this.nv;
    if (this.fence) gl.deleteSync(this.fence);
    this.fence = gl.fenceSync(gl.SYNC_GPU_COMMANDS_COMPLETE, 0);
    gl.flush();
    this.drawn.push(...this.toDraw.splice(0));
    this.watch(performance.now(), isSolid);
  }

  // Waits for the frame that has just been drawn.
  watch(begun, isSolid) {
    if (this.isDrawing()) {
      requestAnimationFrame(() => this.watch(begun, isSolid));
      return;
    }
    if (isSolid && performance.now() - begun > SLOW_MS) this.isSlow = true;
    for (const call of this.drawn.splice(0)) call();
  }

  keepPicture() {
    const tile = this.tiles.find(({ type }) => type === SOLID);
    if (!tile || this.isAlone) return;
    const corners = [this.toCanvas(tile.left, tile.top), this.toCanvas(tile.width, tile.height)];
    const [left, top, width, height] = corners.flat().map(Math.round);
    this.picture = Object.assign(document.createElement("canvas"), { width, height });
    this.picture.getContext("2d").drawImage(this.canvas, left, top, width, height, 0, 0, width, height);
  }

  isDrawing() {
    const { gl } = this.nv;
    return !this.isLost && Boolean(this.fence) && gl.getSyncParameter(this.fence, gl.SYNC_STATUS) !== gl.SIGNALED;
  }

  // Calls back once what has been changed by now is on the screen.
  whenShown(call) {
    this.toDraw.push(call);
    this.draw();
  }

  setWindow(lower, upper) {
    const image = this.nv.volumes[0];
    if (!image) return;
    [image.cal_min, image.cal_max] = [lower, above(lower, upper)].map((value) => value * this.scale);
    this.nv.updateGLVolume();
  }

  get window() {
    const image = this.nv.volumes[0];
    return [image.cal_min / this.scale, image.cal_max / this.scale];
  }

  // Of the labels 1, 2, ...: {colour: "#rrggbb", isVisible}, or nothing where a label is not used.
  setColours(colours) {
    const lut = new Uint8ClampedArray(1024);
    colours.forEach(({ colour, isVisible }, n) => {
      const at = 4 * (n + 1);
      lut.set([1, 3, 5].map((from) => parseInt(colour.slice(from, from + 2), 16)), at);
      lut[at + 3] = isVisible ? 255 : 0;
    });
    this.nv.drawLut = { lut, labels: [] };
    if (this.nv.volumes.length) this.nv.refreshColormaps();
    this.draw();
  }

  setOpacity(opacity, areVisible = this.areVisible) {
    [this.opacity, this.areVisible] = [opacity, areVisible];
    this.nv.drawOpacity = areVisible ? opacity : 0;
    this.draw();
  }

  // Labels of a box, which labelsOf(box) gives in the array's order. Only that box travels to the graphics card.
  patchLabels(box, labelsOf) {
    const { nv, grid } = this;
    const { gl } = nv;
    const whole = grid.whole(box);
    const { start: [x, y, z], size: [w, h, d] } = grid.boxToViewer(whole);
    const block = grid.reorder(labelsOf(whole), whole);
    let from = 0;
    for (let c = 0; c < d; c++) {
      for (let b = 0; b < h; b++, from += w) {
        const to = ((z + c) * grid.size[1] + y + b) * grid.size[0] + x;
        nv.drawBitmap.set(block.subarray(from, from + w), to);
      }
    }
    gl.activeTexture(LABELS_TEXTURE);
    gl.bindTexture(gl.TEXTURE_3D, nv.drawTexture);
    gl.pixelStorei(gl.UNPACK_ALIGNMENT, 1);
    gl.texSubImage3D(gl.TEXTURE_3D, 0, x, y, z, w, h, d, gl.RED, gl.UNSIGNED_BYTE, block);
    this.draw();
  }

  // Where the crosshair is, and going there.

  get voxel() {
    return [...this.at];
  }

  goTo(kji) {
    this.at = kji.map((at, axis) => Math.min(Math.max(at, 0), this.grid.shape[axis] - 1));
    this.nv.scene.crosshairPos = this.nv.vox2frac(this.grid.toViewer(this.at));
    this.draw();
  }

  // The voxel beside the crosshair on the large plane, `step` ([right, down]) voxels away.
  beside([right, down], count) {
    const { grid } = this;
    const [across, up] = IN_PLANE[this.plane];
    const isMirrored = this.plane < 2 && this.nv.opts.isRadiologicalConvention;
    const moved = grid.toViewer(this.at);
    moved[across] += ((isMirrored ? -right : right) * count) / grid.factors[grid.arrayAxis(across)];
    moved[up] -= (down * count) / grid.factors[grid.arrayAxis(up)];
    return grid.toArray(moved);
  }

  intensity(kji) {
    const image = this.nv.volumes[0];
    const [, height, width] = this.grid.shape;
    const raw = this.voxels[(kji[0] * height + kji[1]) * width + kji[2]];
    return (raw * (image.hdr.scl_slope || 1) + (image.hdr.scl_inter || 0)) / this.scale;
  }

  // Layout, zoom and turning.

  setLayout(name) {
    this.layout = name;
    this.picture = null;
    this.draw(this.isAlone);
  }

  get isAlone() {
    return this.layout === "one" || this.layout === "solid";
  }

  // The large plane comes first, 3-D last.
  placeTiles(isSolid) {
    const { nv, plane } = this;
    if (this.isAlone) {
      nv.opts.sliceType = this.layout === "one" ? plane : SOLID;
      nv.customLayout = null;
      return;
    }
    nv.opts.sliceType = SEVERAL;
    const planes = [plane, ...[0, 1, 2].filter((type) => type !== plane)];
    const types = isSolid ? [...planes, SOLID] : planes;
    nv.customLayout = types.map((sliceType, n) => ({ sliceType, position: this.tile(n) }));
  }

  // A tile's left, top, width and height, of 1.
  tile(n) {
    const { width, height } = this.canvas.getBoundingClientRect();
    const gap = [2 / Math.max(width, 1), 2 / Math.max(height, 1)];
    if (this.layout === "four") {
      const [w, h] = gap.map((each) => (1 - each) / 2);
      return [(n % 2) * (w + gap[0]), Math.floor(n / 2) * (h + gap[1]), w, h];
    }
    const main = 0.68;
    const [w, h] = [1 - main - gap[0], (1 - 2 * gap[1]) / 3];
    return n === 0 ? [0, 0, main, 1] : [main + gap[0], (n - 1) * (h + gap[1]), w, h];
  }

  setPlane(plane) {
    this.plane = plane;
    this.setLayout(this.layout);
  }

  home() {
    this.nv.scene.pan2Dxyzmm = [0, 0, 0, 1];
    this.nv.scene.volScaleMultiplier = 1;
    [this.nv.scene.renderAzimuth, this.nv.scene.renderElevation] = [120, 15];
    this.draw();
  }

  zoom(factor, solid = false) {
    const { scene } = this.nv;
    if (solid) {
      scene.volScaleMultiplier = Math.min(Math.max(scene.volScaleMultiplier * factor, 0.4), 5);
    } else {
      // What is at the crosshair stays where it is.
      const [x, y, z, old] = scene.pan2Dxyzmm;
      const now = Math.min(Math.max(old * factor, 1), MAX_ZOOM);
      const mm = this.nv.frac2mm(scene.crosshairPos);
      const change = now - old;
      scene.pan2Dxyzmm = now === 1
        ? [0, 0, 0, 1]
        : [x - mm[0] * change, y - mm[1] * change, z - mm[2] * change, now];
    }
    this.draw(solid);
  }

  pan(tile, dx, dy) {
    const { scene } = this.nv;
    const scale = this.mmPerPixel(tile) * scene.pan2Dxyzmm[3];
    const moved = [...scene.pan2Dxyzmm];
    const across = IN_PLANE[tile.type];
    moved[across[0]] += (tile.isMirrored ? -dx : dx) * scale;
    moved[across[1]] -= dy * scale;
    scene.pan2Dxyzmm = moved;
    this.draw();
  }

  // Takes hold of what is under a pixel. Gives what zooms about it, and moves it so many pixels away from there.
  hold(tile, [x, y]) {
    const { nv } = this;
    const { scene } = nv;
    if (tile.type > 2) {
      const size = scene.volScaleMultiplier;
      return (factor) => this.zoom((size * factor) / scene.volScaleMultiplier, true);
    }
    const frac = [...nv.screenXY2TextureFrac(...this.toCanvas(x, y), tile.index, false)];
    frac[DEPTH[tile.type]] = scene.crosshairPos[DEPTH[tile.type]];
    const mm = nv.frac2mm(frac);
    const start = [...scene.pan2Dxyzmm];
    const scale = this.mmPerPixel(tile) * start[3];
    const [across, up] = IN_PLANE[tile.type];
    return (factor, dx, dy) => {
      const now = Math.min(Math.max(start[3] * factor, 1), MAX_ZOOM);
      const moved = [0, 1, 2].map((n) => start[n] - mm[n] * (now - start[3]));
      moved[across] += (tile.isMirrored ? -dx : dx) * scale;
      moved[up] -= dy * scale;
      scene.pan2Dxyzmm = now === 1 ? [0, 0, 0, 1] : [...moved, now];
      this.draw();
    };
  }

  turn(dx, dy) {
    const { scene } = this.nv;
    scene.renderAzimuth -= dx * 0.5;
    scene.renderElevation = Math.min(Math.max(scene.renderElevation + dy * 0.5, -90), 90);
    this.draw(true);
  }

  // Tiles and pixels. Pixels are CSS pixels from the canvas's corner.

  // The canvas's own pixels in one of CSS, across and down. They differ while the window has another size already and the
  // next frame is still to come, and so what is seen is a picture that the browser has stretched.
  get ratios() {
    const { canvas } = this;
    return [canvas.width / Math.max(1, canvas.clientWidth), canvas.height / Math.max(1, canvas.clientHeight)];
  }

  toCanvas(x, y) {
    const [across, down] = this.ratios;
    return [x * across, y * down];
  }

  get tiles() {
    const { ratios } = this;
    return this.nv.screenSlices.map((slice, index) => {
      let [left, top, width, height] = slice.leftTopWidthHeight.map((each, n) => each / ratios[n % 2]);
      if (width < 0) [left, width] = [left + width, -width];
      const type = slice.axCorSag;
      const isMirrored = type < 2 && this.nv.opts.isRadiologicalConvention;
      return { index, type, left, top, width, height, isMirrored, slice };
    });
  }

  tileAt(x, y) {
    return this.tiles.find((t) => x >= t.left && x < t.left + t.width && y >= t.top && y < t.top + t.height);
  }

  mmPerPixel(tile) {
    return Math.abs(tile.slice.fovMM[0]) / tile.width;
  }

  describe(tile) {
    if (tile.type > 2) return { name: "3-D", sides: null };
    const axis = this.grid.arrayAxis(DEPTH[tile.type]);
    return { name: PLANES[tile.type], sides: SIDES[tile.type], axis };
  }

  planeOfAxis(axis) {
    return DEPTH.indexOf(this.grid.viewerAxis(axis));
  }

  // The array's axes that a plane is thin along, runs down along, and runs right along.
  axesOf(type) {
    return this.grid.arrayAxis(DEPTH[type]);
  }

  // The voxel under a pixel, or null.
  voxelAt(tile, x, y) {
    if (!tile || tile.type > 2) return null;
    const frac = this.nv.screenXY2TextureFrac(...this.toCanvas(x, y), tile.index, false);
    const edge = 1e-4;
    if ([0, 1, 2].some((n) => n !== DEPTH[tile.type] && (frac[n] < -edge || frac[n] > 1 + edge))) return null;
    return this.voxelOf(frac, tile);
  }

  // The nearest voxel to a pixel that may lie outside.
  nearestVoxel(tile, x, y) {
    const inside = this.toCanvas(
      Math.min(Math.max(x, tile.left + 0.01), tile.left + tile.width - 0.01),
      Math.min(Math.max(y, tile.top + 0.01), tile.top + tile.height - 0.01),
    );
    const frac = this.nv.screenXY2TextureFrac(...inside, tile.index, false);
    return this.voxelOf(frac, tile);
  }

  // The voxel at a place of a tile's slice, in shares of the volume.
  voxelOf(frac, tile) {
    const voxel = this.grid.toArray(this.grid.size.map((length, n) => frac[n] * length - 0.5));
    const axis = this.axesOf(tile.type);
    voxel[axis] = this.at[axis];
    return voxel;
  }

  // The pixel of a voxel's centre in a tile, as if it lay on the slice that is shown.
  pixelOf(kji, tile) {
    const frac = [...this.nv.vox2frac(this.grid.toViewer(kji))];
    const depth = DEPTH[tile.type];
    frac[depth] = this.nv.scene.crosshairPos[depth];
    const { slice } = tile;
    const mm = this.nv.frac2mm(frac);
    const [across, up] = IN_PLANE[tile.type];
    let right = (mm[across] - slice.leftTopMM[0]) / slice.fovMM[0];
    const below = 1 - (mm[up] - slice.leftTopMM[1]) / slice.fovMM[1];
    if (slice.leftTopWidthHeight[2] < 0) right = 1 - right;
    return [tile.left + right * tile.width, tile.top + below * tile.height];
  }

  // Whether a box of the array has the slice that a tile shows.
  isOnSlice(box, tile) {
    const axis = this.axesOf(tile.type);
    const at = this.voxel[axis];
    return box[axis][0] <= at && at < box[axis][1];
  }
}

// What values are multiplied with for NiiVue, a power of two: 1, but where all are as close as diffusion's in SI units.
function scaleOf({ lowest, highest }) {
  const range = highest - lowest;
  return range > 0 && range < NARROW ? 2 ** -Math.floor(Math.log2(range)) : 1;
}

// The upper end of a window, whose width is not 0.
function above(lower, upper) {
  return upper > lower ? upper : lower + (1e-6 * Math.abs(lower) || 1e-6);
}

function rendererOf(gl) {
  const details = gl.getExtension("WEBGL_debug_renderer_info");
  return String(gl.getParameter(details ? details.UNMASKED_RENDERER_WEBGL : gl.RENDERER));
}

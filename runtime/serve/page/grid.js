// Between the array's order (k, j, i) and the viewer's, which runs from right to left, from back to front, from below
// to above ("RAS"), whatever way the file lies in space. One voxel of the viewer's may stand for several of the array's.

import { shownOf } from "./reduce.js";

export class Grid {
  // perm: for each axis of the viewer, the array's axis it is (1 is i, 2 is j, 3 is k), negative where it runs backwards.
  // factors: how many of the array's voxels along k, j, i are one of the viewer's.
  constructor(shape, perm, factors = [1, 1, 1]) {
    this.shape = shape;
    this.perm = perm;
    this.factors = factors;
    this.size = perm.map((_, n) => Math.ceil(shape[this.arrayAxis(n)] / factors[this.arrayAxis(n)]));
  }

  // Where the middle of one of the array's voxels lies, between two of the viewer's if those are larger.
  toViewer(kji) {
    return this.perm.map((axis, n) => {
      const factor = this.factors[this.arrayAxis(n)];
      const at = (kji[this.arrayAxis(n)] - (factor - 1) / 2) / factor;
      return axis > 0 ? at : this.size[n] - 1 - at;
    });
  }

  // The nearest of the array's voxels.
  toArray(viewer) {
    const kji = [0, 0, 0];
    this.perm.forEach((axis, n) => {
      const along = this.arrayAxis(n);
      const factor = this.factors[along];
      const at = axis > 0 ? viewer[n] : this.size[n] - 1 - viewer[n];
      kji[along] = Math.min(Math.max(Math.round(at * factor + (factor - 1) / 2), 0), this.shape[along] - 1);
    });
    return kji;
  }

  // The array's axis (0 is k) that one of the viewer's runs along.
  arrayAxis(viewerAxis) {
    return 3 - Math.abs(this.perm[viewerAxis]);
  }

  viewerAxis(arrayAxis) {
    return this.perm.findIndex((axis) => 3 - Math.abs(axis) === arrayAxis);
  }

  // A box of the array with all voxels of the viewer's that it has a part in.
  whole(box) {
    return box.map(([start, stop], axis) => {
      const factor = this.factors[axis];
      return [Math.floor(start / factor) * factor, Math.min(Math.ceil(stop / factor) * factor, this.shape[axis])];
    });
  }

  // Where a box of the array lies for the viewer: first voxel and size.
  boxToViewer(box) {
    const spans = box.map(([start, stop], axis) => [Math.floor(start / this.factors[axis]), Math.ceil(stop / this.factors[axis])]);
    const size = this.perm.map((_, n) => spans[this.arrayAxis(n)][1] - spans[this.arrayAxis(n)][0]);
    const start = this.perm.map((axis, n) => (axis > 0 ? spans[this.arrayAxis(n)][0] : this.size[n] - spans[this.arrayAxis(n)][1]));
    return { start, size };
  }

  // Values of a whole box in the array's order, put into the viewer's.
  reorder(values, box) {
    const { size } = this.boxToViewer(box);
    const strides = [1, size[0], size[0] * size[1]];
    const step = [0, 0, 0]; // along k, j, i
    let base = 0;
    this.perm.forEach((axis, n) => {
      const forward = axis > 0 ? 1 : -1;
      step[this.arrayAxis(n)] = forward * strides[n];
      if (axis < 0) base += strides[n] * (size[n] - 1);
    });
    const [, rows, columns] = box.map(([start, stop]) => stop - start);
    const [ks, js, is] = box.map((span, axis) => shownOf(span, this.factors[axis], this.shape[axis]));
    const out = new Uint8Array(size[0] * size[1] * size[2]);
    for (let k = 0; k < ks.length; k++) {
      for (let j = 0; j < js.length; j++) {
        const row = (ks[k] * rows + js[j]) * columns;
        let to = base + k * step[0] + j * step[1];
        for (let i = 0; i < is.length; i++, to += step[2]) out[to] = values[row + is[i]];
      }
    }
    return out;
  }
}

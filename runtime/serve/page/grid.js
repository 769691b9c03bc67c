// Between the array's order (k, j, i) and the viewer's, which runs from right to left, from back to front, from below
// to above ("RAS"), whatever way the file lies in space.

export class Grid {
  // perm: for each axis of the viewer, the array's axis it is (1 is i, 2 is j, 3 is k), negative where it runs backwards.
  constructor(shape, perm) {
    this.shape = shape;
    this.perm = perm;
    this.size = perm.map((axis) => shape[3 - Math.abs(axis)]);
  }

  toViewer([k, j, i]) {
    const voxel = [i, j, k];
    return this.perm.map((axis, n) => {
      const at = voxel[Math.abs(axis) - 1];
      return axis > 0 ? at : this.size[n] - 1 - at;
    });
  }

  toArray(viewer) {
    const voxel = [0, 0, 0];
    this.perm.forEach((axis, n) => {
      const at = Math.min(Math.max(viewer[n], 0), this.size[n] - 1);
      voxel[Math.abs(axis) - 1] = axis > 0 ? at : this.size[n] - 1 - at;
    });
    return [voxel[2], voxel[1], voxel[0]];
  }

  // The array's axis (0 is k) that one of the viewer's runs along.
  arrayAxis(viewerAxis) {
    return 3 - Math.abs(this.perm[viewerAxis]);
  }

  viewerAxis(arrayAxis) {
    return this.perm.findIndex((axis) => 3 - Math.abs(axis) === arrayAxis);
  }

  // Where a box of the array lies for the viewer: first voxel and size.
  boxToViewer(box) {
    const a = this.toViewer(box.map(([start]) => start));
    const b = this.toViewer(box.map(([, stop]) => stop - 1));
    const start = a.map((value, n) => Math.min(value, b[n]));
    const size = a.map((value, n) => Math.abs(value - b[n]) + 1);
    return { start, size };
  }

  // Values of a box in the array's order, put into the viewer's.
  reorder(values, box) {
    const { size } = this.boxToViewer(box);
    const strides = [1, size[0], size[0] * size[1]];
    const step = [0, 0, 0]; // along k, j, i
    let base = 0;
    this.perm.forEach((axis, n) => {
      const forward = axis > 0 ? 1 : -1;
      step[3 - Math.abs(axis)] = forward * strides[n];
      if (axis < 0) base += strides[n] * (size[n] - 1);
    });
    const [depth, rows, columns] = box.map(([start, stop]) => stop - start);
    const out = new Uint8Array(values.length);
    let from = 0;
    for (let k = 0; k < depth; k++) {
      for (let j = 0; j < rows; j++) {
        let to = base + k * step[0] + j * step[1];
        for (let i = 0; i < columns; i++, from++, to += step[2]) out[to] = values[from];
      }
    }
    return out;
  }
}

// Fewer voxels than there are, for graphics cards that take no more along a side: NiiVue would show one slice for all.

// Where numbers stand in headers of NIfTI-1 and NIfTI-2, and how wide they are.
const FIELDS = {
  348: { dim: 40, dimBytes: 2, pixdim: 76, offset: 268, srow: 280, datatype: 70, bytes: 4 },
  540: { dim: 16, dimBytes: 8, pixdim: 104, offset: 376, srow: 400, datatype: 12, bytes: 8 },
};
const VOXELS = { 2: Uint8Array, 4: Int16Array, 16: Float32Array, 512: Uint16Array };

// Of every so many voxels along each axis of the array one is shown.
export function factorsOf(shape, most) {
  return shape.map((length) => Math.ceil(length / most));
}

// The voxels of a NIfTI file that the server has sent.
export function voxelsOf(buffer) {
  const view = new DataView(buffer);
  const { datatype } = FIELDS[view.getInt32(0, true)];
  return new VOXELS[view.getInt16(datatype, true)](buffer, firstOf(view));
}

// The same file with the middle one of every so many voxels, at the place in space where that is.
export function reduced(buffer, shape, factors) {
  const voxels = voxelsOf(buffer);
  const size = shape.map((length, axis) => Math.ceil(length / factors[axis]));
  const start = firstOf(new DataView(buffer));
  const out = new ArrayBuffer(start + size[0] * size[1] * size[2] * voxels.BYTES_PER_ELEMENT);
  new Uint8Array(out).set(new Uint8Array(buffer, 0, start));
  shrinkHeader(new DataView(out), [...size].reverse(), [...factors].reverse());
  const to = new voxels.constructor(out, start);
  const [ks, js, is] = shape.map((length, axis) => shownOf([0, length], factors[axis], length));
  let at = 0;
  for (const k of ks) {
    for (const j of js) {
      const row = (k * shape[1] + j) * shape[2];
      for (const i of is) to[at++] = voxels[row + i];
    }
  }
  return out;
}

// Which voxels of a span are shown, counted from its start.
export function shownOf([start, stop], factor, length) {
  const first = Math.floor(start / factor);
  return Int32Array.from({ length: Math.ceil(stop / factor) - first }, (_, n) =>
    Math.min((first + n) * factor + (factor >> 1), length - 1) - start);
}

function firstOf(view) {
  return view.getInt32(0, true) === 348 ? view.getFloat32(108, true) : Number(view.getBigInt64(168, true));
}

// size and factors are those along i, j, k.
function shrinkHeader(view, size, factors) {
  const { dim, dimBytes, pixdim, offset, srow, bytes } = FIELDS[view.getInt32(0, true)];
  const get = (at) => (bytes === 4 ? view.getFloat32(at, true) : view.getFloat64(at, true));
  const set = (at, value) => (bytes === 4 ? view.setFloat32(at, value, true) : view.setFloat64(at, value, true));
  size.forEach((length, n) => {
    const at = dim + (n + 1) * dimBytes;
    if (dimBytes === 2) view.setInt16(at, length, true);
    else view.setBigInt64(at, BigInt(length), true);
    set(pixdim + (n + 1) * bytes, get(pixdim + (n + 1) * bytes) * factors[n]);
  });
  for (let row = 0; row < 3; row++) {
    let moved = 0;
    factors.forEach((factor, n) => {
      const at = srow + (4 * row + n) * bytes;
      moved += (get(at) * (factor - 1)) / 2;
      set(at, get(at) * factor);
    });
    for (const at of [srow + (4 * row + 3) * bytes, offset + row * bytes]) set(at, get(at) + moved);
  }
}

// Masks of objects as bits, in the order of the array (k, j, i), and the labels that are drawn of them.

export function boxShape(box) {
  return box.map(([start, stop]) => stop - start);
}

export function numBytes(shape) {
  return Math.ceil((shape[0] * shape[1] * shape[2]) / 8);
}

export function bytesOfBase64(text) {
  const letters = atob(text);
  const bytes = new Uint8Array(letters.length);
  for (let n = 0; n < letters.length; n++) bytes[n] = letters.charCodeAt(n);
  return bytes;
}

export class Masks {
  constructor(shape) {
    this.shape = shape;
    this.objects = new Map(); // id -> {bits, slices: voxels per slice along each axis 0, voxels}
  }

  add(id) {
    if (!this.objects.has(id)) {
      this.objects.set(id, { bits: new Uint8Array(numBytes(this.shape)), voxels: 0 });
    }
    return this.objects.get(id);
  }

  remove(id) {
    this.objects.delete(id);
  }

  // The whole mask of one object, as the server packs it.
  replace(id, bits) {
    const mask = this.add(id);
    mask.bits = bits;
    mask.voxels = 0;
    for (const byte of bits) mask.voxels += POPULATION[byte];
  }

  // What one object's mask is within a box.
  patch(id, box, packed) {
    const mask = this.add(id);
    const { bits } = mask;
    const [, height, width] = this.shape;
    const [[k0, k1], [j0, j1], [i0, i1]] = box;
    let from = 0;
    for (let k = k0; k < k1; k++) {
      for (let j = j0; j < j1; j++) {
        let to = (k * height + j) * width + i0;
        for (let i = i0; i < i1; i++, from++, to++) {
          const bit = 128 >> (to & 7);
          const was = bits[to >> 3] & bit;
          if (packed[from >> 3] & (128 >> (from & 7))) {
            if (!was) {
              bits[to >> 3] |= bit;
              mask.voxels++;
            }
          } else if (was) {
            bits[to >> 3] &= ~bit;
            mask.voxels--;
          }
        }
      }
    }
  }

  has(id, [k, j, i]) {
    const at = (k * this.shape[1] + j) * this.shape[2] + i;
    return Boolean(this.objects.get(id)?.bits[at >> 3] & (128 >> (at & 7)));
  }

  // Labels within a box: the number of the last object in `order` ([id, label]) that has the voxel, in the order of the array.
  labels(box, order) {
    const [, height, width] = this.shape;
    const [depth, rows, columns] = boxShape(box);
    const out = new Uint8Array(depth * rows * columns);
    for (const [id, label] of order) {
      const bits = this.objects.get(id)?.bits;
      if (!bits) continue;
      let to = 0;
      for (let k = box[0][0]; k < box[0][1]; k++) {
        for (let j = box[1][0]; j < box[1][1]; j++) {
          let from = (k * height + j) * width + box[2][0];
          for (let i = 0; i < columns; i++, from++, to++) {
            if (bits[from >> 3] & (128 >> (from & 7))) out[to] = label;
          }
        }
      }
    }
    return out;
  }

  // The middle of an object on a slice along an axis; null where it has no voxel there.
  centre(id, axis, slice) {
    const bits = this.objects.get(id)?.bits;
    if (!bits) return null;
    const [, height, width] = this.shape;
    const spans = this.shape.map((length, n) => (n === axis ? [slice, slice + 1] : [0, length]));
    const sum = [0, 0, 0];
    let count = 0;
    for (let k = spans[0][0]; k < spans[0][1]; k++) {
      for (let j = spans[1][0]; j < spans[1][1]; j++) {
        for (let i = spans[2][0]; i < spans[2][1]; i++) {
          const at = (k * height + j) * width + i;
          if (!(bits[at >> 3] & (128 >> (at & 7)))) continue;
          count++;
          [k, j, i].forEach((value, n) => (sum[n] += value));
        }
      }
    }
    return count ? sum.map((value) => Math.round(value / count)) : null;
  }

  // Whether an object has a voxel on each slice along an axis.
  presence(id, axis) {
    const bits = this.objects.get(id)?.bits;
    const found = new Uint8Array(this.shape[axis]);
    if (!bits) return found;
    const [, height, width] = this.shape;
    const plane = height * width;
    for (let n = 0; n < bits.length; n++) {
      if (!bits[n]) continue;
      for (let b = 0; b < 8; b++) {
        if (!(bits[n] & (128 >> b))) continue;
        const at = n * 8 + b;
        if (axis === 0) found[Math.floor(at / plane)] = 1;
        else if (axis === 1) found[Math.floor((at % plane) / width)] = 1;
        else found[at % width] = 1;
      }
    }
    return found;
  }
}

const POPULATION = Uint8Array.from({ length: 256 }, (_, byte) => {
  let count = 0;
  for (let rest = byte; rest; rest >>= 1) count += rest & 1;
  return count;
});

// A stroke over a slice, as the voxels it covers.

// path: voxels (k, j, i), one after the other, all on one slice along `axis`. Gives a box of the array, and the mask in
// it with one bit a voxel, most significant first.
export function coverPath(path, axis, radius, shape) {
  const [a, b] = [0, 1, 2].filter((each) => each !== axis);
  const reach = Math.ceil(radius);
  const box = shape.map((length, each) => {
    const along = path.map((voxel) => voxel[each]);
    const grow = each === axis ? 0 : reach;
    return [Math.max(0, Math.min(...along) - grow), Math.min(length, Math.max(...along) + grow + 1)];
  });
  const size = box.map(([start, stop]) => stop - start);
  const mask = new Uint8Array(size[0] * size[1] * size[2]);
  const strides = [size[1] * size[2], size[2], 1];
  const stamp = (at) => {
    for (let u = -reach; u <= reach; u++) {
      for (let v = -reach; v <= reach; v++) {
        if (u * u + v * v > radius * radius) continue;
        const voxel = [...at];
        voxel[a] += u;
        voxel[b] += v;
        if (voxel.some((value, each) => value < box[each][0] || value >= box[each][1])) continue;
        mask[voxel.reduce((sum, value, each) => sum + (value - box[each][0]) * strides[each], 0)] = 1;
      }
    }
  };
  stamp(path[0]);
  for (let n = 1; n < path.length; n++) {
    const [from, to] = [path[n - 1], path[n]];
    const steps = Math.max(1, Math.abs(to[a] - from[a]), Math.abs(to[b] - from[b]));
    for (let step = 1; step <= steps; step++) {
      const at = [...to];
      at[a] = Math.round(from[a] + ((to[a] - from[a]) * step) / steps);
      at[b] = Math.round(from[b] + ((to[b] - from[b]) * step) / steps);
      stamp(at);
    }
  }
  return { box, bits: packBits(mask) };
}

export function packBits(mask) {
  const bits = new Uint8Array(Math.ceil(mask.length / 8));
  for (let n = 0; n < mask.length; n++) if (mask[n]) bits[n >> 3] |= 128 >> (n & 7);
  return bits;
}

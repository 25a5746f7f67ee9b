// The page's data: JSON, with arrays as bytes in base64.

function decoded({ shape, f8, f4, i1, u1, scale }) {
  const text = atob(f8 ?? f4 ?? i1 ?? u1);
  const bytes = Uint8Array.from(text, (c) => c.charCodeAt(0));
  const kind = f8 !== undefined ? Float64Array : f4 !== undefined ? Float32Array : i1 !== undefined ? Int8Array : Uint8Array;
  const flat = Float64Array.from(new kind(bytes.buffer));
  if (i1 !== undefined) flat.forEach((v, k) => (flat[k] = (v * scale) / 127));
  if (u1 !== undefined) flat.forEach((v, k) => (flat[k] = v / scale));
  return { shape, flat };
}

// Every array of the tree in the place of its bytes: { shape, flat }.
export function unpacked(value) {
  if (Array.isArray(value)) return value.map(unpacked);
  if (value === null || typeof value !== "object") return value;
  if (Array.isArray(value.shape) && ("f8" in value || "f4" in value || "i1" in value || "u1" in value)) return decoded(value);
  return Object.fromEntries(Object.entries(value).map(([name, part]) => [name, unpacked(part)]));
}

// Entry k of the first axis.
export function slice(array, ...places) {
  let { shape, flat } = array;
  for (const k of places) {
    const size = shape.slice(1).reduce((s, v) => s * v, 1);
    flat = flat.subarray(k * size, (k + 1) * size);
    shape = shape.slice(1);
  }
  return flat;
}

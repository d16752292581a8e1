/** Bicubic enlargement of the alpha channel, to the level as Pillow resizes it. */

const BITS = 22;

function cubic(x: number): number {
  const a = -0.5;
  const d = Math.abs(x);
  if (d < 1) return ((a + 2) * d - (a + 3)) * d * d + 1;
  return d < 2 ? (((d - 5) * d + 8) * d - 4) * a : 0;
}

/** For each place of the result, where its source begins and the weights of it, as whole multiples of 2**-22. */
function taps(from: number, to: number): { first: number; weights: number[] }[] {
  return Array.from({ length: to }, (_, place) => {
    const centre = ((place + 0.5) * from) / to;
    const first = Math.max(0, Math.trunc(centre - 2 + 0.5));
    const last = Math.min(from, Math.trunc(centre + 2 + 0.5));
    const weights = Array.from({ length: last - first }, (_, i) => cubic(first + i - centre + 0.5));
    const sum = weights.reduce((a, b) => a + b, 0);
    return { first, weights: weights.map((w) => Math.trunc((w / sum) * 2 ** BITS + (w < 0 ? -0.5 : 0.5))) };
  });
}

/** (height x width) levels enlarged `scale` times and cut to `size`. */
export function enlargeAlpha(
  alpha: Uint8Array,
  width: number,
  height: number,
  scale: number,
  size: { width: number; height: number },
): Uint8Array {
  const across = taps(width, width * scale).slice(0, size.width);
  const down = taps(height, height * scale).slice(0, size.height);
  const wide = new Uint8Array(height * size.width);
  for (let y = 0; y < height; y++) {
    for (const [x, { first, weights }] of across.entries()) {
      let sum = 2 ** (BITS - 1);
      for (const [i, weight] of weights.entries()) sum += alpha[y * width + first + i]! * weight;
      wide[y * size.width + x] = Math.min(255, Math.max(0, Math.floor(sum / 2 ** BITS)));
    }
  }
  const result = new Uint8Array(size.width * size.height);
  for (const [y, { first, weights }] of down.entries()) {
    for (let x = 0; x < size.width; x++) {
      let sum = 2 ** (BITS - 1);
      for (const [i, weight] of weights.entries()) sum += wide[(first + i) * size.width + x]! * weight;
      result[y * size.width + x] = Math.min(255, Math.max(0, Math.floor(sum / 2 ** BITS)));
    }
  }
  return result;
}

/**
 * PSNR and SSIM of two pictures, as faitheir.evaluation.metrics defines them, in a worker.
 *
 * They are measured here so that the photograph need not be sent again for each picture restored.
 */

const WINDOW = 11, SIGMA = 1.5, ROWS = 128;
const line = Float64Array.from({ length: WINDOW }, (_, i) => Math.exp(-((i - 5) ** 2) / (2 * SIGMA ** 2)));
const total = line.reduce((a, b) => a + b);
line.forEach((value, i) => { line[i] = value / total; });

async function pixels(blob) {
  const bitmap = await createImageBitmap(blob);
  const context = new OffscreenCanvas(bitmap.width, bitmap.height).getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  return context.getImageData(0, 0, bitmap.width, bitmap.height);
}

export function psnr(a, b) {
  let sum = 0;
  for (let i = 0; i < a.data.length; i += 4) {
    for (let c = 0; c < 3; c++) sum += (a.data[i + c] - b.data[i + c]) ** 2;
  }
  return 10 * Math.log10((255 ** 2 * 3 * a.width * a.height) / sum);
}

/** Not a number for pictures smaller than the window. */
export function ssim(a, b) {
  const { width, height } = a;
  const across = width - WINDOW + 1, down = height - WINDOW + 1;
  if (across < 1 || down < 1) return NaN;
  const [c1, c2] = [(0.01 * 255) ** 2, (0.03 * 255) ** 2];
  let sum = 0;
  for (let c = 0; c < 3; c++) {
    for (let top = 0; top < down; top += ROWS) {
      const rows = Math.min(ROWS, down - top), tall = rows + WINDOW - 1;
      // The five sums that SSIM needs, blurred along rows, then down columns.
      const blurred = Array.from({ length: 5 }, () => new Float32Array(tall * across));
      for (let y = 0; y < tall; y++) {
        const start = (top + y) * width * 4 + c;
        for (let x = 0; x < across; x++) {
          let [p, q, pp, qq, pq] = [0, 0, 0, 0, 0];
          for (let k = 0, i = start + 4 * x; k < WINDOW; k++, i += 4) {
            const u = a.data[i], v = b.data[i], w = line[k];
            p += w * u; q += w * v; pp += w * u * u; qq += w * v * v; pq += w * u * v;
          }
          const at = y * across + x;
          blurred[0][at] = p; blurred[1][at] = q; blurred[2][at] = pp; blurred[3][at] = qq; blurred[4][at] = pq;
        }
      }
      for (let y = 0; y < rows; y++) {
        for (let x = 0; x < across; x++) {
          let [p, q, pp, qq, pq] = [0, 0, 0, 0, 0];
          for (let k = 0, at = y * across + x; k < WINDOW; k++, at += across) {
            const w = line[k];
            p += w * blurred[0][at]; q += w * blurred[1][at];
            pp += w * blurred[2][at]; qq += w * blurred[3][at]; pq += w * blurred[4][at];
          }
          sum += ((2 * p * q + c1) * (2 * (pq - p * q) + c2)) / ((p * p + q * q + c1) * (pp - p * p + qq - q * q + c2));
        }
      }
    }
  }
  return sum / (3 * across * down);
}

addEventListener("message", async ({ data: { id, original, restored } }) => {
  try {
    const [a, b] = [await pixels(original), await pixels(restored)];
    if (a.width !== b.width || a.height !== b.height) throw new Error("the sizes differ");
    postMessage({ id, psnr: psnr(a, b), ssim: ssim(a, b) });
  } catch (error) {
    postMessage({ id, error: String(error) });
  }
});

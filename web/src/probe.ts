/**
 * What a model gives for one fixed thumbnail, by WASM when the site is made: WebGPU has to give the same.
 *
 * Kernels of WebGPU depend on the graphics card and its driver, and some have been seen to compute wrongly.
 */

import type { ModelFile } from "./models.js";

const VALUES = 256;

/** A small thumbnail of all kinds of levels, away from the origin. */
export function probeInput({ align }: Pick<ModelFile, "align">) {
  const [height, width] = [2 * align, 3 * align];
  const thumbnail = Float32Array.from({ length: 3 * height * width }, (_, i) => ((i * 37) % 101) / 101);
  return { thumbnail, height, width, origin: [align, 2 * align] as [number, number] };
}

/** Some of the values of the picture, from all over it. */
export function probeValues(picture: Float32Array): number[] {
  const step = Math.max(1, Math.floor(picture.length / VALUES));
  return Array.from({ length: Math.min(VALUES, picture.length) }, (_, i) => Number(picture[i * step]!.toFixed(5)));
}

/** By how many levels of 255 a picture is off. */
export function probeError(picture: Float32Array, expected: number[]): number {
  return Math.max(...probeValues(picture).map((value, i) => Math.abs(value - (expected[i] ?? NaN)) * 255));
}

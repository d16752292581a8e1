/** The levels of a thumbnail, exactly as they are stored. */

import { kindOf } from "./metadata.js";
import { RestoreError } from "./errors.js";

export interface Pixels {
  width: number;
  height: number;
  /** RGBA, colours not multiplied with alpha. */
  rgba: Uint8ClampedArray;
  opaque: boolean;
}

/** Throws RestoreError ("no-picture", "unsupported"). */
export async function decode(data: Uint8Array<ArrayBuffer>): Promise<Pixels> {
  const kind = kindOf(data);
  const blob = new Blob([data], kind ? { type: `image/${kind}` } : {});
  let bitmap: ImageBitmap;
  try {
    bitmap = await createImageBitmap(blob, { colorSpaceConversion: "none", premultiplyAlpha: "none" });
  } catch {
    throw new RestoreError("no-picture", "The thumbnail is no picture that this browser can read.");
  }
  try {
    const { width, height } = bitmap;
    const plain = onCanvas(bitmap);
    const opaque = plain.every((level, i) => i % 4 < 3 || level === 255);
    // A 2D canvas holds colours multiplied with alpha, so where that is low they are lost; WebGL keeps them.
    return { width, height, rgba: opaque ? plain : throughWebGL(bitmap), opaque };
  } finally {
    bitmap.close();
  }
}

function onCanvas(bitmap: ImageBitmap): Uint8ClampedArray {
  const context = new OffscreenCanvas(bitmap.width, bitmap.height).getContext("2d", { willReadFrequently: true });
  if (!context) throw new RestoreError("unsupported", "This browser cannot draw pictures outside of the page.");
  context.drawImage(bitmap, 0, 0);
  return context.getImageData(0, 0, bitmap.width, bitmap.height).data;
}

function throughWebGL(bitmap: ImageBitmap): Uint8ClampedArray {
  const { width, height } = bitmap;
  const gl = new OffscreenCanvas(1, 1).getContext("webgl2");
  if (!gl) throw new RestoreError("unsupported", "This browser cannot read a picture with transparency exactly.");
  gl.bindTexture(gl.TEXTURE_2D, gl.createTexture());
  gl.pixelStorei(gl.UNPACK_PREMULTIPLY_ALPHA_WEBGL, false);
  gl.pixelStorei(gl.UNPACK_COLORSPACE_CONVERSION_WEBGL, gl.NONE);
  gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA, gl.RGBA, gl.UNSIGNED_BYTE, bitmap);
  gl.bindFramebuffer(gl.FRAMEBUFFER, gl.createFramebuffer());
  gl.framebufferTexture2D(gl.FRAMEBUFFER, gl.COLOR_ATTACHMENT0, gl.TEXTURE_2D, gl.getParameter(gl.TEXTURE_BINDING_2D), 0);
  const rgba = new Uint8Array(4 * width * height);
  gl.readPixels(0, 0, width, height, gl.RGBA, gl.UNSIGNED_BYTE, rgba);
  gl.getExtension("WEBGL_lose_context")?.loseContext();
  return new Uint8ClampedArray(rgba.buffer);
}

/** Whether what is drawn can be read back: some browsers change it, against fingerprinting. */
export function readsBack(): boolean {
  const side = 16;
  const drawn = new ImageData(side, side);
  for (let i = 0; i < drawn.data.length; i++) drawn.data[i] = i % 4 === 3 ? 255 : (i * 37) % 256;
  const context = new OffscreenCanvas(side, side).getContext("2d", { willReadFrequently: true });
  context?.putImageData(drawn, 0, 0);
  const read = context?.getImageData(0, 0, side, side).data;
  return read !== undefined && read.every((level, i) => level === drawn.data[i]);
}

/**
 * The 14 bytes that a thumbnail file carries, format 2: docs/reference/file-format.md describes them, and
 * src/faitheir/thumbnail.py and containers.py are the reference. Nothing here trusts a file.
 */

import { RestoreError } from "./errors.js";

export interface ThumbnailInfo {
  /** The thumbnail is so many times smaller per side, 2..256. */
  scale: number;
  /** Of the photograph, in pixels. */
  width: number;
  height: number;
  /** Hash of the weights that made it, 16 hexadecimal digits. */
  weights: string;
}

export type Kind = "png" | "webp" | "jpeg" | "avif";

const NAME = "faIr";
const MOST = 4096;

/** Which kind of file it is, by its first bytes. */
export function kindOf(data: Uint8Array): Kind | undefined {
  if (text(data, 0, 8) === "\x89PNG\r\n\x1a\n") return "png";
  if (text(data, 0, 4) === "RIFF" && text(data, 8, 4) === "WEBP") return "webp";
  if (data[0] === 0xff && data[1] === 0xd8 && data[2] === 0xff) return "jpeg";
  if (["ftypavif", "ftypavis"].includes(text(data, 4, 8))) return "avif";
  return undefined;
}

/**
 * What the metadata in a file says, for a thumbnail of that width and height.
 *
 * Undefined where there is none of ours, or it is damaged, contradicts itself or is of another picture. Throws
 * RestoreError ("newer-format") for what a newer version wrote.
 */
export function readInfo(data: Uint8Array, width: number, height: number): ThumbnailInfo | undefined {
  const found = new Map<string, ThumbnailInfo>();
  for (const payload of payloads(data)) {
    const info = parse(payload, width, height);
    if (info) found.set(JSON.stringify(info), info);
  }
  return found.size === 1 ? [...found.values()][0] : undefined;
}

/** Every payload of ours in a file, of at most 4096 bytes each. */
export function payloads(data: Uint8Array): Uint8Array[] {
  const kind = kindOf(data);
  if (kind === "jpeg") {
    return [...jpegSegments(data)]
      .filter(([marker, content]) => marker === 0xfe && text(content, 0, 4) === NAME && content.length <= MOST)
      .map(([, content]) => content.subarray(4));
  }
  const chunks = { png: pngChunks, webp: webpChunks, avif: avifBoxes };
  if (!kind) return [];
  return [...chunks[kind](data)].filter(([name, content]) => name === NAME && content.length <= MOST).map(([, c]) => c);
}

function parse(payload: Uint8Array, width: number, height: number): ThumbnailInfo | undefined {
  if (payload.length < 3) return undefined;
  const content = payload.subarray(0, -2);
  const checked = new Uint8Array(content.length + 8);
  checked.set(content);
  const view = new DataView(checked.buffer);
  view.setUint32(content.length, width);
  view.setUint32(content.length + 4, height);
  if (crc16(checked) !== viewOf(payload).getUint16(content.length)) return undefined;
  if (payload[0]! > 2) {
    throw new RestoreError("newer-format", "The thumbnail was made by a newer FaithEIR than this page has.");
  }
  if (payload[0] !== 2 || payload.length !== 14) return undefined;
  const scale = payload[1]! + 1;
  const [columns, rows] = [payload[2]!, payload[3]!];
  if (scale < 2 || columns >= scale || rows >= scale) return undefined;
  const weights = [...payload.subarray(4, 12)].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  return { scale, width: width * scale - columns, height: height * scale - rows, weights };
}

/** CRC-16/IBM-3740: polynomial 0x1021, initial value 0xFFFF, not reflected. */
export function crc16(data: Uint8Array): number {
  let crc = 0xffff;
  for (const byte of data) {
    crc ^= byte << 8;
    for (let bit = 0; bit < 8; bit++) crc = (crc & 0x8000 ? (crc << 1) ^ 0x1021 : crc << 1) & 0xffff;
  }
  return crc;
}

type Chunk = [name: string, content: Uint8Array];

function* pngChunks(data: Uint8Array): Generator<Chunk> {
  const view = viewOf(data);
  let at = 8;
  while (at + 12 <= data.length) {
    const length = view.getUint32(at);
    if (at + 8 + length > data.length) return;
    yield [text(data, at + 4, 4), data.subarray(at + 8, at + 8 + length)];
    at += 12 + length;
  }
}

function* webpChunks(data: Uint8Array): Generator<Chunk> {
  const view = viewOf(data);
  const end = Math.min(data.length, 8 + view.getUint32(4, true));
  let at = 12;
  while (at + 8 <= end) {
    const length = view.getUint32(at + 4, true);
    if (at + 8 + length > end) return;
    yield [text(data, at, 4), data.subarray(at + 8, at + 8 + length)];
    at += 8 + length + (length % 2);
  }
}

function* avifBoxes(data: Uint8Array): Generator<Chunk> {
  const view = viewOf(data);
  let at = 0;
  while (at + 8 <= data.length) {
    let length = view.getUint32(at);
    let header = 8;
    if (length === 1) {
      // A size of 64 bits follows.
      if (at + 16 > data.length) return;
      length = Number(view.getBigUint64(at + 8));
      header = 16;
    } else if (length === 0) {
      length = data.length - at; // up to the end of the file
    }
    if (length < header || at + length > data.length) return;
    yield [text(data, at + 4, 4), data.subarray(at + header, at + length)];
    at += length;
  }
}

/** All up to the first scan. */
function* jpegSegments(data: Uint8Array): Generator<[marker: number, content: Uint8Array]> {
  const view = viewOf(data);
  let at = 2;
  while (at + 4 <= data.length && data[at] === 0xff) {
    const marker = data[at + 1]!;
    if (marker === 0xff) {
      at += 1; // padding before a marker
      continue;
    }
    const length = view.getUint16(at + 2);
    if (length < 2 || at + 2 + length > data.length) return;
    yield [marker, data.subarray(at + 4, at + 2 + length)];
    if (marker === 0xda) return;
    at += 2 + length;
  }
}

function text(data: Uint8Array, at: number, length: number): string {
  return String.fromCharCode(...data.subarray(at, at + length));
}

function viewOf(data: Uint8Array): DataView {
  return new DataView(data.buffer, data.byteOffset, data.byteLength);
}

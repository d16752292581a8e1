/** The models that a site holds: `models/index.json`, and their files, kept in Cache Storage. */

import { RestoreError } from "./errors.js";

export type Precision = "fp32" | "fp16" | "int8";

/** One file of a decoder half, as `faitheir export` describes it in the JSON beside it. */
export interface ModelFile {
  model: string;
  /** Hash of its weights, as thumbnails carry it: 16 hexadecimal digits. */
  weights: string;
  licence: string;
  half: "up";
  precision: Precision;
  /** From 0 (most natural) to 1 (lowest error). */
  fidelity: number;
  scale: number;
  /** In thumbnail pixels: what the sides of its input, and the places of tiles, must be multiples of. */
  multiple: number;
  align: number;
  /** By how many thumbnail pixels tiles overlap. */
  overlap: number;
  /** Its name, beside the index. */
  file: string;
  bytes: number;
  /** 64 hexadecimal digits. */
  sha256: string;
  /** What it gives for a fixed thumbnail (src/probe.ts); without it WebGPU is not trusted with the file. */
  probe?: number[];
}

export interface Index {
  format: 1;
  files: ModelFile[];
}

const CACHE = "faitheir-models";
/** In half precision files are half as large, and pictures the same to the eye. */
const PREFERRED: Precision[] = ["fp16", "fp32", "int8"];

/** Every model of a site. Throws RestoreError ("no-model"). */
export async function readIndex(folder: string): Promise<ModelFile[]> {
  const url = new URL("index.json", folder).href;
  const response = await reach(url);
  try {
    const { format, files } = (await response.json()) as Index;
    if (format !== 1 || !Array.isArray(files)) throw new TypeError();
    return files;
  } catch {
    throw new RestoreError("no-model", `${url} is no list of models that this version reads.`);
  }
}

/** The file that restores what some weights made. Throws RestoreError ("unknown-model"). */
export function fileFor(files: ModelFile[], weights: string, precision?: Precision, fidelity = 0): ModelFile {
  const ours = files.filter((file) => file.weights === weights && file.half === "up");
  if (!ours.length) {
    const known = [...new Set(files.map((file) => file.model))].join(", ") || "none";
    throw new RestoreError(
      "unknown-model",
      `The thumbnail was made by the weights ${weights}, which this site does not hold (it has ${known}).`,
    );
  }
  const rank = (file: ModelFile): number => PREFERRED.indexOf(file.precision);
  const fits = (file: ModelFile): boolean => file.fidelity === fidelity && (!precision || file.precision === precision);
  const chosen = ours.filter(fits).sort((a, b) => rank(a) - rank(b))[0];
  if (chosen) return chosen;
  const asked = `${precision ?? "any precision"} at fidelity ${fidelity}`;
  throw new RestoreError("unknown-model", `This site holds no file of ${ours[0]!.model} in ${asked}.`);
}

export interface Progress {
  loaded: number;
  total: number;
}

export interface Fetched {
  data: Uint8Array<ArrayBuffer>;
  cached: boolean;
}

/** The bytes of a model's file, from the cache or the site. Throws RestoreError ("no-model", "damaged-model"). */
export async function fetchModel(
  folder: string,
  file: ModelFile,
  progress: (p: Progress) => void,
): Promise<Fetched> {
  const url = new URL(file.file, folder).href;
  const key = `${url}?sha256=${file.sha256}`;
  const cache = await openCache();
  const kept = await cache?.match(key);
  if (cache && kept) {
    const data = new Uint8Array(await kept.arrayBuffer());
    if (await isWhole(data, file)) return { data, cached: true };
    await cache.delete(key);
  }
  const data = await download(url, file, progress);
  if (!(await isWhole(data, file))) {
    throw new RestoreError(
      "damaged-model",
      `${url} is damaged: it has ${data.length} bytes, or others than the ${file.bytes} of the site's index.`,
    );
  }
  if (cache) await keep(cache, url, key, data);
  return { data, cached: false };
}

/** Whether a model's file is in the cache, so that using it downloads nothing. */
export async function isCached(folder: string, file: ModelFile): Promise<boolean> {
  const cache = await openCache();
  return (await cache?.match(`${new URL(file.file, folder).href}?sha256=${file.sha256}`)) !== undefined;
}

async function download(url: string, file: ModelFile, progress: (p: Progress) => void): Promise<Uint8Array<ArrayBuffer>> {
  const response = await reach(url);
  const parts: Uint8Array[] = [];
  let loaded = 0;
  try {
    // A file that is longer than it should be is not read to its end.
    for (const reader = response.body!.getReader(); loaded <= file.bytes; ) {
      const { done, value } = await reader.read();
      if (done) break;
      parts.push(value);
      loaded += value.length;
      progress({ loaded, total: file.bytes });
    }
  } catch {
    throw new RestoreError("no-model", `${url} could not be fetched to its end.`);
  }
  const data = new Uint8Array(loaded);
  let at = 0;
  for (const part of parts) {
    data.set(part, at);
    at += part.length;
  }
  return data;
}

async function reach(url: string): Promise<Response> {
  let response: Response;
  try {
    response = await fetch(url);
  } catch {
    throw new RestoreError("no-model", `${url} cannot be fetched.`);
  }
  if (!response.ok) throw new RestoreError("no-model", `${url} cannot be fetched (${response.status}).`);
  return response;
}

/** Cache Storage, which there is in secure contexts only, and not in every private window. */
async function openCache(): Promise<Cache | undefined> {
  try {
    return await caches.open(CACHE);
  } catch {
    return undefined;
  }
}

/** Stores a file and forgets earlier versions of it. Where there is no room, it is fetched again the next time. */
async function keep(cache: Cache, url: string, key: string, data: Uint8Array<ArrayBuffer>): Promise<void> {
  try {
    for (const request of await cache.keys()) {
      if (request.url.startsWith(`${url}?`) && request.url !== key) await cache.delete(request);
    }
    await cache.put(key, new Response(data, { headers: { "Content-Length": String(data.length) } }));
  } catch {
    // No room.
  }
}

async function isWhole(data: Uint8Array<ArrayBuffer>, file: ModelFile): Promise<boolean> {
  if (data.length !== file.bytes) return false;
  // There is no digest outside of secure contexts; the runtime refuses what is no model.
  if (!globalThis.crypto?.subtle) return true;
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", data));
  return [...digest].map((byte) => byte.toString(16).padStart(2, "0")).join("") === file.sha256;
}

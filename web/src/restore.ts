/** The page's side of the worker. */

import type { Device, Runtime } from "./engine.js";
import { asRestoreError, RestoreError } from "./errors.js";
import type { Precision, Progress } from "./models.js";
import type { FromWorker, ModelOffer, Report, Settings, ToWorker } from "./protocol.js";
import type { Rect, Region } from "./tiles.js";

/** Where the files are and how pictures are restored; what is left out stays as it is. */
export interface Defaults {
  /** Address of the folder with this package's files; by default that of the script. */
  base?: string;
  /** Address of the folder with the models and their index.json; by default `models/` in `base`. */
  models?: string;
  /** "auto": WebGPU where there is one that is no emulation, else WASM. */
  device?: Device | "auto";
  /** Threads of WASM where the page is cross-origin isolated; by default up to 4. */
  threads?: number;
  /** Which of a model's files; by default fp16, else fp32, else int8. */
  precision?: Precision;
  /** From 0 (most natural; the default) to 1 (lowest error): another value needs a file exported for it. */
  fidelity?: number;
  /** Side of a tile in pixels of the restored picture; by default 768. */
  tile?: number;
  /** Larger pictures are not restored; by default 16,777,216 pixels, the most that a canvas holds everywhere. */
  maxPixels?: number;
}

export interface Options extends Defaults {
  /** Name or weights of the model for a picture without metadata. */
  model?: string;
  /** Ends the work: the promise is rejected with a RestoreError ("cancelled"). */
  signal?: AbortSignal;
  /** Which part of the picture is seen, in parts of its sides (0 to 1): its tiles come first. */
  visible?: Rect;
  /** Whether nothing may be downloaded: "reduced-data" where the model is not in the cache. */
  cachedOnly?: boolean;
  /** Asked before a model is fetched, with its size; false declines. */
  onOffer?: (offer: ModelOffer) => boolean | Promise<boolean>;
  onLoading?: (progress: Progress) => void;
  /** What computes, and why it is not the fastest there is; once for each runtime of the page. */
  onRuntime?: (runtime: Runtime) => void;
  /** The size of the picture, as soon as it is known. */
  onSize?: (size: { width: number; height: number; opaque: boolean; tiles: number }) => void;
  /** Finished parts of the picture, as they come. */
  onTile?: (regions: Region[], done: number, tiles: number) => void;
}

export interface Restored {
  picture: ImageData;
  report: Report;
}

const DEFAULTS = { device: "auto", tile: 768, maxPixels: 2 ** 24 } as const;
let chosen: Defaults = {};

/** Sets the defaults of the page, for `restore` and `<faitheir-img>`. */
export function configure(defaults: Defaults): void {
  chosen = { ...chosen, ...defaults };
}

/** Pictures in work, by number. */
interface Running {
  receive(message: FromWorker): void;
  fail(error: RestoreError): void;
}

const running = new Map<number, Running>();
const workers = new Map<string, Worker>();
let count = 0;

function workerOf(base: string): Worker {
  const url = new URL("worker.js", base).href;
  let worker = workers.get(url);
  if (worker) return worker;
  worker = new Worker(url, { type: "module", name: "faitheir" });
  workers.set(url, worker);
  worker.onmessage = ({ data }: MessageEvent<FromWorker>) => {
    if (data.type === "ready") return;
    const told = running.get(data.id);
    // What computes concerns all: where the picture that began it is done, another tells.
    (told ?? (data.type === "runtime" ? [...running.values()][0] : undefined))?.receive(data);
  };
  worker.onerror = (event) => {
    event.preventDefault();
    workers.delete(url);
    worker.terminate();
    const error = new RestoreError("failed", `The worker ${url} failed (${event.message ?? "it cannot be loaded"}).`);
    for (const job of [...running.values()]) job.fail(error);
  };
  return worker;
}

function lacking(): string | undefined {
  if (typeof Worker === "undefined") return "workers";
  if (typeof WebAssembly === "undefined") return "WebAssembly";
  if (typeof OffscreenCanvas === "undefined") return "canvases outside of the page";
  return undefined;
}

export type Source = string | URL | Blob | ArrayBuffer | ArrayBufferView | HTMLImageElement;

/**
 * The full-size picture of a thumbnail file, computed in a worker of this page; nothing is sent anywhere.
 *
 * `thumbnail`: the file's address, its bytes, or an `<img>` that shows it. Pixels are those of
 * `FaithEIRPipeline.upscale` with the same tiles. Rejects with a RestoreError, which has a `reason`.
 */
export async function restore(thumbnail: Source, options: Options = {}): Promise<Restored> {
  let picture: ImageData | undefined;
  const report = await stream(thumbnail, {
    ...options,
    onSize(size) {
      picture = new ImageData(size.width, size.height);
      options.onSize?.(size);
    },
    onTile(regions, done, tiles) {
      for (const region of regions) copy(region, picture!);
      options.onTile?.(regions, done, tiles);
    },
  }).report;
  return { picture: picture!, report };
}

/** Like `restore`, without putting the picture together; `see` tells which part is seen now. */
export function stream(thumbnail: Source, options: Options): { report: Promise<Report>; see(visible: Rect): void } {
  const id = ++count;
  let see = (visible: Rect): void => {
    options = { ...options, visible };
  };
  const report = (async (): Promise<Report> => {
    const missing = lacking();
    if (missing) throw new RestoreError("unsupported", `This browser has no ${missing}.`);
    const { signal } = options;
    const data = await bytesOf(thumbnail, signal);
    const settings = settingsOf(options);
    const worker = workerOf(settings.base);
    const send = (message: ToWorker, transfer: Transferable[] = []): void => worker.postMessage(message, transfer);
    return new Promise<Report>((resolve, reject) => {
      const end = (): void => {
        running.delete(id);
        signal?.removeEventListener("abort", cancel);
      };
      const fail = (error: RestoreError): void => {
        end();
        reject(error);
      };
      const cancel = (): void => {
        send({ type: "cancel", id });
        fail(new RestoreError("cancelled", "Restoring was cancelled."));
      };
      const receive = (message: FromWorker): void => {
        if (message.type === "offer") {
          void Promise.resolve(options.onOffer?.(message.offer) ?? true).then(
            (agreed) => send({ type: "answer", id, agreed }),
            () => send({ type: "answer", id, agreed: false }),
          );
        } else if (message.type === "loading") options.onLoading?.(message.progress);
        else if (message.type === "runtime") options.onRuntime?.(message.runtime);
        else if (message.type === "opened") options.onSize?.(message);
        else if (message.type === "tile") options.onTile?.(message.regions, message.done, message.tiles);
        else if (message.type === "failed") fail(new RestoreError(message.reason, message.message));
        else if (message.type === "restored") {
          end();
          resolve(message.report);
        }
      };
      if (signal?.aborted) return cancel();
      signal?.addEventListener("abort", cancel);
      running.set(id, { receive, fail });
      const visible = options.visible ?? { x: 0, y: 0, width: 1, height: 1 };
      send({ type: "restore", id, data, settings, visible }, [data]);
      see = (now) => send({ type: "visible", id, visible: now });
    });
  })();
  return { report, see: (visible) => see(visible) };
}

function settingsOf(options: Options): Settings {
  const { base: given, models, device, threads, precision, fidelity, tile, maxPixels } = { ...DEFAULTS, ...chosen, ...options };
  const base = folder(given ?? new URL(".", import.meta.url).href);
  return {
    base,
    models: models === undefined ? new URL("models/", base).href : folder(models),
    device,
    threads,
    precision,
    fidelity,
    tile,
    maxPixels,
    model: options.model,
    cachedOnly: options.cachedOnly ?? false,
  };
}

/** The whole address of a folder, with the slash at its end. */
function folder(address: string): string {
  const url = new URL(address, document.baseURI).href;
  return url.endsWith("/") ? url : `${url}/`;
}

async function bytesOf(source: Source, signal?: AbortSignal): Promise<ArrayBuffer> {
  if (source instanceof ArrayBuffer) return source.slice(0);
  if (ArrayBuffer.isView(source)) {
    return new Uint8Array(source.buffer, source.byteOffset, source.byteLength).slice().buffer;
  }
  if (source instanceof Blob) return source.arrayBuffer();
  const url = source instanceof HTMLImageElement ? source.currentSrc || source.src : String(source);
  try {
    const response = await fetch(url, signal ? { signal } : {});
    if (!response.ok) throw new Error(String(response.status));
    return await response.arrayBuffer();
  } catch (error) {
    if (signal?.aborted) throw new RestoreError("cancelled", "Restoring was cancelled.");
    throw asRestoreError(new RestoreError("no-picture", `The thumbnail ${url} cannot be fetched (${String(error)}).`));
  }
}

function copy(region: Region, picture: ImageData): void {
  for (let y = 0; y < region.height; y++) {
    const row = region.rgba.subarray(4 * y * region.width, 4 * (y + 1) * region.width);
    picture.data.set(row, 4 * ((region.y + y) * picture.width + region.x));
  }
}

/** Restores pictures beside the page, tile by tile, those that are seen first. */

import { enlargeAlpha } from "./alpha.js";
import { createSession, type Part, type Session } from "./engine.js";
import { asRestoreError, RestoreError } from "./errors.js";
import { readInfo, type ThumbnailInfo } from "./metadata.js";
import { fetchModel, fileFor, isCached, readIndex, type ModelFile } from "./models.js";
import { decode, readsBack, type Pixels } from "./pixels.js";
import type { FromWorker, ModelOffer, Report, Settings, ToWorker } from "./protocol.js";
import { Mosaic, nextTile, spans, type Rect, type Region, type Tile } from "./tiles.js";

declare const self: {
  onmessage: (event: MessageEvent<ToWorker>) => void;
  postMessage(message: FromWorker, transfer?: Transferable[]): void;
};

interface Opened {
  session: Session;
  file: ModelFile;
  cached: boolean;
  fetching: number;
}

interface Job {
  id: number;
  settings: Settings;
  /** Parts of the picture's sides, 0 to 1. */
  visible: Rect;
  cancelled: boolean;
  answer?: (agreed: boolean) => void;
}

/** A job whose model is there. */
interface Work {
  job: Job;
  opened: Opened;
  mosaic: Mosaic;
  left: Tile[];
  total: number;
  pixels: Pixels;
  info: ThumbnailInfo;
  alpha: Uint8Array | undefined;
  report: Report;
  begun: number;
}

const jobs = new Map<number, Job>();
const works: Work[] = [];
const sessions = new Map<string, Promise<Opened>>();
const indexes = new Map<string, Promise<ModelFile[]>>();
const runtimesTold = new Set<string>();
let opening: Promise<unknown> = Promise.resolve();
let working = false;

function tell(message: FromWorker, transfer: Transferable[] = []): void {
  self.postMessage(message, transfer);
}

self.onmessage = ({ data: message }) => {
  if (message.type === "restore") {
    const job: Job = { id: message.id, settings: message.settings, visible: message.visible, cancelled: false };
    jobs.set(job.id, job);
    // One after the other: what the first fetches, the others find.
    opening = opening.then(() => prepare(job, new Uint8Array(message.data))).catch((error) => fail(job, error));
    return;
  }
  const job = jobs.get(message.id);
  if (!job) return;
  if (message.type === "visible") job.visible = message.visible;
  if (message.type === "answer") job.answer?.(message.agreed);
  if (message.type === "cancel") {
    job.cancelled = true;
    jobs.delete(job.id);
    job.answer?.(false);
    const at = works.findIndex((work) => work.job === job);
    if (at >= 0) works.splice(at, 1);
  }
};

function fail(job: Job, error: unknown): void {
  const at = works.findIndex((work) => work.job === job);
  if (at >= 0) works.splice(at, 1);
  if (!jobs.delete(job.id)) return; // cancelled: nobody waits
  const { reason, message } = asRestoreError(error);
  tell({ type: "failed", id: job.id, reason, message });
}

async function prepare(job: Job, data: Uint8Array<ArrayBuffer>): Promise<void> {
  if (job.cancelled) return;
  const begun = performance.now();
  const { settings } = job;
  if (!readsBack()) {
    throw new RestoreError("unsupported", "This browser hides the pixels of pictures from pages, so none is restored.");
  }
  const pixels = await decode(data);
  const models = await index(settings.models);
  const info = readInfo(data, pixels.width, pixels.height) ?? assume(models, settings, pixels);
  const model = fileFor(models, info.weights, settings.precision, settings.fidelity);
  if (info.width * info.height > settings.maxPixels) {
    const size = `${info.width} x ${info.height}`;
    throw new RestoreError("too-large", `It would be ${size} pixels, above the limit of ${settings.maxPixels}.`);
  }
  const before = sessions.size;
  const opened = await open(job, model);
  if (job.cancelled) return;
  const fresh = sessions.size > before;
  const { session } = opened;
  const unit = model.scale;
  const [rows, columns] = [padded(pixels.height, model), padded(pixels.width, model)];
  const overlap = model.overlap;
  const tile = Math.max(2 * overlap, Math.floor(settings.tile / unit / model.align) * model.align);
  const mosaic = new Mosaic(
    spans(rows, tile, overlap, unit, model.align),
    spans(columns, tile, overlap, unit, model.align),
    unit,
    info.width,
    info.height,
  );
  const runtime = JSON.stringify(session.runtime);
  if (!runtimesTold.has(runtime)) tell({ type: "runtime", id: job.id, runtime: session.runtime });
  runtimesTold.add(runtime);
  const { opaque } = pixels;
  const tiles = mosaic.tiles.length;
  tell({ type: "opened", id: job.id, width: info.width, height: info.height, opaque, tiles });
  works.push({
    job,
    opened,
    mosaic,
    left: [...mosaic.tiles],
    total: tiles,
    pixels,
    info,
    alpha: opaque ? undefined : enlarged(pixels, info),
    report: {
      width: info.width,
      height: info.height,
      scale: info.scale,
      model: model.model,
      weights: model.weights,
      precision: model.precision,
      fidelity: model.fidelity,
      runtime: session.runtime,
      tiles,
      cached: opened.cached,
      took: {
        model: fresh ? opened.fetching : 0,
        runtime: fresh ? session.loading : 0,
        session: fresh ? session.preparing : 0,
        tiles: 0,
        total: 0,
      },
    },
    begun,
  });
  void pump();
}

function index(folder: string): Promise<ModelFile[]> {
  let models = indexes.get(folder);
  if (!models) {
    models = readIndex(folder);
    models.catch(() => indexes.delete(folder));
    indexes.set(folder, models);
  }
  return models;
}

/** For a picture without metadata: the model that the page names, and the thumbnail's size times its scale. */
function assume(models: ModelFile[], settings: Settings, pixels: Pixels): ThumbnailInfo {
  if (!settings.model) {
    throw new RestoreError("no-metadata", "The picture has no metadata of FaithEIR, and the page names no model for it.");
  }
  const named = models.find((file) => file.model === settings.model) ?? fileFor(models, settings.model);
  const { scale, weights } = named;
  return { scale, weights, width: pixels.width * scale, height: pixels.height * scale };
}

/** The session of a model, which jobs share; asked for and fetched by the first. */
async function open(job: Job, file: ModelFile): Promise<Opened> {
  const { settings } = job;
  const key = [settings.base, settings.models, settings.device, settings.threads, file.file, file.sha256].join("|");
  const there = sessions.get(key);
  if (there) return there;
  if (!(await isCached(settings.models, file))) {
    if (settings.cachedOnly) {
      throw new RestoreError("reduced-data", "The visitor asks for less data, and the model is not in the cache.");
    }
    await ask(job, { model: file.model, weights: file.weights, precision: file.precision, bytes: file.bytes });
  }
  const opened = (async (): Promise<Opened> => {
    const begun = performance.now();
    const { data, cached } = await fetchModel(settings.models, file, (progress) =>
      tell({ type: "loading", id: job.id, progress }),
    );
    const fetching = performance.now() - begun;
    const session = await createSession(settings.base, data, file, settings.device, settings.threads, (runtime) =>
      tell({ type: "runtime", id: job.id, runtime }),
    );
    return { session, file, cached, fetching };
  })();
  sessions.set(key, opened);
  // A file that is damaged stays so; what could not be fetched is tried again by the next picture.
  opened.catch((error) => {
    if (asRestoreError(error).reason !== "damaged-model") sessions.delete(key);
  });
  return opened;
}

async function ask(job: Job, offer: ModelOffer): Promise<void> {
  const agreed = await new Promise<boolean>((answer) => {
    job.answer = answer;
    tell({ type: "offer", id: job.id, offer });
  });
  if (!agreed) throw new RestoreError("declined", `The page did not want to fetch ${offer.model} (${offer.bytes} bytes).`);
}

/** Works off tiles until none is left; messages are heard in between. */
async function pump(): Promise<void> {
  if (working) return;
  working = true;
  while (works.length) {
    // The first picture that has a visible tile left, else the first.
    const work = works.find((w) => next(w).seen) ?? works[0]!;
    try {
      await step(work);
    } catch (error) {
      fail(work.job, error);
    }
    await new Promise((heard) => setTimeout(heard));
  }
  working = false;
}

function next({ mosaic, left, job, info }: Work): { at: number; seen: boolean } {
  const { visible } = job;
  const rect = {
    x: visible.x * info.width,
    y: visible.y * info.height,
    width: visible.width * info.width,
    height: visible.height * info.height,
  };
  return nextTile(left, (tile) => mosaic.area(tile), rect);
}

async function step(work: Work): Promise<void> {
  const { job, mosaic, left, report, opened } = work;
  const [tile] = left.splice(next(work).at, 1);
  const begun = performance.now();
  const picture = await opened.session.run(partOf(work, tile!));
  report.took.tiles += performance.now() - begun;
  if (job.cancelled) return;
  const regions = mosaic.add(tile!, picture);
  if (work.alpha) for (const region of regions) putAlpha(region, work.alpha, report.width);
  const done = work.total - left.length;
  tell(
    { type: "tile", id: job.id, regions, done, tiles: work.total },
    regions.map((region) => region.rgba.buffer),
  );
  if (left.length) return;
  report.took.total = performance.now() - work.begun;
  works.splice(works.indexOf(work), 1);
  jobs.delete(job.id);
  tell({ type: "restored", id: job.id, report });
}

/** A tile of the thumbnail, continued by its edge where it ends within the model's multiple. */
function partOf({ pixels, mosaic }: Work, tile: Tile): Part {
  const [row, column] = [mosaic.rows[tile.row]!, mosaic.columns[tile.column]!];
  const [height, width] = [row.stop - row.start, column.stop - column.start];
  const planes = new Float32Array(3 * height * width);
  for (let y = 0; y < height; y++) {
    const from = Math.min(row.start + y, pixels.height - 1) * pixels.width;
    for (let x = 0; x < width; x++) {
      const at = 4 * (from + Math.min(column.start + x, pixels.width - 1));
      for (let c = 0; c < 3; c++) planes[(c * height + y) * width + x] = pixels.rgba[at + c]! / 255;
    }
  }
  return { thumbnail: planes, height, width, origin: [row.start, column.start] };
}

function padded(cells: number, model: ModelFile): number {
  return Math.ceil(cells / model.multiple) * model.multiple;
}

function enlarged(pixels: Pixels, info: ThumbnailInfo): Uint8Array {
  const alpha = Uint8Array.from({ length: pixels.width * pixels.height }, (_, i) => pixels.rgba[4 * i + 3]!);
  return enlargeAlpha(alpha, pixels.width, pixels.height, info.scale, info);
}

function putAlpha(region: Region, alpha: Uint8Array, width: number): void {
  for (let y = 0; y < region.height; y++) {
    for (let x = 0; x < region.width; x++) {
      region.rgba[4 * (y * region.width + x) + 3] = alpha[(region.y + y) * width + region.x + x]!;
    }
  }
}

tell({ type: "ready" });

/** What page and worker say to each other. */

import type { Device, Runtime } from "./engine.js";
import type { Reason } from "./errors.js";
import type { Precision, Progress } from "./models.js";
import type { Rect, Region } from "./tiles.js";

export interface Settings {
  /** Address of the folder with the package's files, and of that with the models. */
  base: string;
  models: string;
  device: Device | "auto";
  threads?: number | undefined;
  precision?: Precision | undefined;
  fidelity?: number | undefined;
  /** Side of a tile, in pixels of the picture. */
  tile: number;
  maxPixels: number;
  /** Name or weights of the model for pictures without metadata. */
  model?: string | undefined;
  /** Whether nothing may be downloaded but what is in the cache already. */
  cachedOnly: boolean;
}

export interface ModelOffer {
  model: string;
  weights: string;
  precision: Precision;
  /** Of the model's file. */
  bytes: number;
}

/** What was done, and by what. */
export interface Report {
  width: number;
  height: number;
  scale: number;
  model: string;
  weights: string;
  precision: Precision;
  fidelity: number;
  runtime: Runtime;
  tiles: number;
  /** Whether the model came from the cache. */
  cached: boolean;
  /** Milliseconds. Those of runtime, model and session are of the picture that loaded them, else 0. */
  took: { model: number; runtime: number; session: number; tiles: number; total: number };
}

export type ToWorker =
  | { type: "restore"; id: number; data: ArrayBuffer; settings: Settings; visible: Rect }
  | { type: "visible"; id: number; visible: Rect }
  | { type: "answer"; id: number; agreed: boolean }
  | { type: "cancel"; id: number };

export type FromWorker =
  | { type: "ready" }
  | { type: "opened"; id: number; width: number; height: number; opaque: boolean; tiles: number }
  | { type: "offer"; id: number; offer: ModelOffer }
  | { type: "loading"; id: number; progress: Progress }
  | { type: "runtime"; id: number; runtime: Runtime }
  | { type: "tile"; id: number; regions: Region[]; done: number; tiles: number }
  | { type: "restored"; id: number; report: Report }
  | { type: "failed"; id: number; reason: Reason; message: string };

/** onnxruntime-web in the worker: WebGPU where there is one, else WASM. */

import type { InferenceSession } from "onnxruntime-web";

import { asRestoreError, RestoreError } from "./errors.js";
import type { ModelFile } from "./models.js";
import { probeError, probeInput } from "./probe.js";

/** Levels of 255 by which WebGPU may differ from WASM. */
const ALLOWED = 0.5;

export type Device = "webgpu" | "wasm";

/** What computes. */
export interface Runtime {
  device: Device;
  /** Of WASM: more than one only where the page is cross-origin isolated. */
  threads: number;
  /** Why it is not what was asked for, or not the fastest there is. */
  fallbacks: string[];
}

type Ort = typeof import("onnxruntime-web");

export interface Part {
  thumbnail: Float32Array;
  height: number;
  width: number;
  origin: [row: number, column: number];
}

export interface Session {
  runtime: Runtime;
  /** Milliseconds that loading the runtime and preparing the model took. */
  loading: number;
  preparing: number;
  /** A part of a thumbnail, in planes of [0, 1], and the row and column where it lies: three planes of the picture. */
  run(part: Part): Promise<Float32Array>;
}

interface Gpu {
  requestAdapter(): Promise<{ isFallbackAdapter?: boolean; info?: { isFallbackAdapter?: boolean } } | null>;
}

/** Which of the two there is, and why not the other. */
async function chooseDevice(wanted: Device | "auto"): Promise<{ device: Device; fallbacks: string[] }> {
  if (wanted === "wasm") return { device: "wasm", fallbacks: [] };
  const gpu = (navigator as { gpu?: Gpu }).gpu;
  if (!gpu) return { device: "wasm", fallbacks: ["WebGPU is not available in this browser or on this page."] };
  try {
    const adapter = await gpu.requestAdapter();
    if (!adapter) return { device: "wasm", fallbacks: ["WebGPU has no adapter on this machine."] };
    const software = adapter.info?.isFallbackAdapter ?? adapter.isFallbackAdapter ?? false;
    if (software && wanted === "auto") {
      return { device: "wasm", fallbacks: ["WebGPU is emulated on the processor here, which WASM is faster than."] };
    }
    return { device: "webgpu", fallbacks: [] };
  } catch (error) {
    return { device: "wasm", fallbacks: [`WebGPU refused (${String(error)}).`] };
  }
}

const loaded = new Map<string, Promise<Ort>>();

/** The script of the runtime for a device, from the site itself. */
function load(base: string, device: Device): Promise<Ort> {
  // WebGPU's calls are asynchronous: newer browsers let WASM wait for them, others need a larger file.
  const waits = "Suspending" in WebAssembly;
  const file = device === "wasm" ? "ort.wasm.min.mjs" : waits ? "ort.jspi.min.mjs" : "ort.webgpu.min.mjs";
  const url = new URL(`ort/${file}`, base).href;
  let script = loaded.get(url);
  if (!script) {
    script = import(url).then(
      (module: Ort) => module,
      (error: unknown) => {
        loaded.delete(url);
        throw new RestoreError("no-model", `The runtime ${url} cannot be loaded (${String(error)}).`);
      },
    );
    loaded.set(url, script);
  }
  return script;
}

/** How many threads WASM is given. */
function threadsFor(wanted: number | undefined): { threads: number; fallbacks: string[] } {
  const isolated = globalThis.crossOriginIsolated === true;
  const most = Math.max(1, navigator.hardwareConcurrency || 1);
  if (isolated) return { threads: Math.min(wanted ?? 4, most), fallbacks: [] };
  if (wanted === 1) return { threads: 1, fallbacks: [] };
  return { threads: 1, fallbacks: ["One thread: the page is not cross-origin isolated."] };
}

/**
 * A session over a model's bytes. Throws RestoreError ("no-model", "damaged-model", "failed").
 *
 * What WebGPU cannot open or run, WASM does, and `fellBack` is told.
 */
export async function createSession(
  base: string,
  model: Uint8Array,
  file: ModelFile,
  wanted: Device | "auto",
  wantedThreads: number | undefined,
  fellBack: (runtime: Runtime) => void,
): Promise<Session> {
  const { device, fallbacks } = await chooseDevice(wanted);
  const onWasm = (): Promise<Session> => {
    const { threads, fallbacks: fewer } = threadsFor(wantedThreads);
    return open(base, model, { device: "wasm", threads, fallbacks: [...fallbacks, ...fewer] });
  };
  if (device === "wasm") return onWasm();
  const refuse = (error: unknown): Promise<Session> => {
    fallbacks.push(`WebGPU cannot be used for this model: ${asRestoreError(error).message.slice(0, 300)}.`);
    return onWasm();
  };
  let session: Session;
  try {
    if (!file.probe) throw new RestoreError("failed", "the site's index has no probe to check it by");
    session = await open(base, model, { device, threads: 1, fallbacks });
    const error = probeError(await session.run(probeInput(file)), file.probe);
    if (!(error < ALLOWED)) throw new RestoreError("failed", `its values are wrong, by ${error.toFixed(1)} levels`);
  } catch (error) {
    return refuse(error);
  }
  let used: Promise<Session> = Promise.resolve(session);
  return {
    ...session,
    async run(inputs) {
      const current = await used;
      try {
        return await current.run(inputs);
      } catch (error) {
        if (current.runtime.device === "wasm") throw error;
        used = refuse(error);
        const { runtime } = await used;
        Object.assign(session.runtime, runtime);
        fellBack(runtime);
        return (await used).run(inputs);
      }
    },
  };
}

async function open(base: string, model: Uint8Array, runtime: Runtime): Promise<Session> {
  const begun = performance.now();
  const ort = await load(base, runtime.device);
  ort.env.wasm.numThreads = runtime.threads;
  ort.env.logLevel = "fatal"; // what goes wrong is thrown as well
  const scripted = performance.now();
  let session: InferenceSession;
  try {
    session = await ort.InferenceSession.create(model, {
      executionProviders: [runtime.device],
      graphOptimizationLevel: "all",
      logSeverityLevel: 4,
    });
  } catch (error) {
    const message = String(error);
    const missing = /no available backend|failed to fetch|dynamically imported/i.test(message);
    throw new RestoreError(missing ? "no-model" : "damaged-model", `The model cannot be opened (${message}).`);
  }
  return {
    runtime,
    loading: scripted - begun,
    preparing: performance.now() - scripted,
    async run({ thumbnail, height, width, origin }) {
      const output = await session.run({
        thumbnail: new ort.Tensor("float32", thumbnail, [1, 3, height, width]),
        origin: new ort.Tensor("int32", Int32Array.from(origin), [2]),
      });
      const picture = Object.values(output)[0]!;
      const data = (await picture.getData()) as Float32Array;
      picture.dispose();
      return data;
    },
  };
}

/**
 * What restoring in a browser takes: `node build/tests/measure.js FOLDER [isolated]` prints it as JSON.
 *
 * FOLDER: a gallery that tools/demo.mjs made. A fresh browser restores one of its pictures, the cold start; then more on
 * the same page. `isolated`: with two threads.
 */

import { readdirSync, statSync } from "node:fs";
import type { Report } from "../src/protocol.js";
import { launch, serve } from "./browser.js";

const [folder, isolated] = process.argv.slice(2) as [string, string?];
const site = await serve(folder, isolated !== undefined);
const browser = await launch();
const page = await (await browser.newContext()).newPage();
site.pages.set("/measure.html", '<!doctype html><title>t</title><link rel="icon" href="data:,">');
await page.goto(`${site.url}/measure.html`);

const session = await browser.newBrowserCDPSession();
/** Seconds of processor time of all of the browser's processes so far: on a busy machine the clock says little. */
async function used(): Promise<number> {
  const { processInfo } = await session.send("SystemInfo.getProcessInfo");
  return processInfo.reduce((sum, { cpuTime }) => sum + cpuTime, 0);
}

async function restored(name: string) {
  const before = await used();
  const { report, script, total } = await page.evaluate(
    async ([name, threads]) => {
      const begun = performance.now();
      const { restore } = await import(`${location.origin}/faitheir/faitheir-img.js`);
      const script = performance.now() - begun;
      const { report } = await restore(`/thumbnails/${name}.thumb.avif`, { threads, device: "wasm" });
      return { report, script, total: performance.now() - begun };
    },
    [name, isolated === undefined ? 1 : 2] as const,
  );
  const { width, height, tiles, took } = report as Report;
  const megapixels = (width * height) / 1e6;
  const processor = (await used()) - before;
  return {
    report,
    name: `${name}, ${width} x ${height}, ${tiles} tiles`,
    milliseconds: { script, ...took, total },
    processorSeconds: processor,
    secondsPerMegapixel: total / 1000 / megapixels,
    processorSecondsPerMegapixel: processor / megapixels,
    runtimesShare: took.tiles / took.total,
  };
}

const found: Awaited<ReturnType<typeof restored>>[] = [];
for (const name of ["coffee", "coffee", "stream", "dandelion"]) found.push(await restored(name));

const size = (path: string): number => statSync(`${folder}/faitheir/${path}`).size;
const [model] = readdirSync(`${folder}/faitheir/models`).filter((name) => name.endsWith(".onnx"));
const wasm = "ort/ort-wasm-simd-threaded";
const bytes = {
  ours: size("faitheir-img.js") + size("worker.js"),
  runtimesScripts: size("ort/ort.wasm.min.mjs") + size(`${wasm}.mjs`),
  runtimesWasm: size(`${wasm}.wasm`),
  model: size(`models/${model}`),
};
const pictures = found.map(({ report: _, ...rest }) => rest);
console.log(JSON.stringify({ runtime: found[0]!.report.runtime, pictures, bytes }, null, 1));
await browser.close();
await site.close();

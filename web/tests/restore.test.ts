/** In a real Chromium, against what Python restores. */

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { cpSync, readFileSync, rmSync } from "node:fs";
import { after, before, beforeEach, afterEach, test } from "node:test";
import type { Browser, BrowserContext, Page } from "playwright-core";

import type { Index, ModelFile } from "../src/models.js";
import { complaints, launch, serve, type Site } from "./browser.js";
import { expected, FOLDER, read } from "./fixtures.js";

const FOLDER_OF_SITE = `${FOLDER}-site`;
const TILE = 256; // as in fixtures.py
/** The strictest that the package works under. */
const POLICY =
  "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self'; img-src 'self' data:; " +
  "connect-src 'self' blob:; worker-src 'self'";

let browser: Browser;
let plain: Site;
let isolated: Site;
let site: Site;
let context: BrowserContext;
let page: Page;
let said: string[];

before(async () => {
  rmSync(FOLDER_OF_SITE, { recursive: true, force: true });
  execFileSync(process.execPath, ["bin/faitheir-img.mjs", `${FOLDER_OF_SITE}/faitheir`, `${FOLDER}/models`]);
  cpSync(FOLDER, FOLDER_OF_SITE, { recursive: true, filter: (path) => !/models|restored|levels/.test(path) });
  [plain, isolated, browser] = await Promise.all([serve(FOLDER_OF_SITE), serve(FOLDER_OF_SITE, true), launch()]);
});

after(async () => {
  await browser?.close();
  await plain?.close();
  await isolated?.close();
});

beforeEach(async () => {
  site = plain;
  site.asked.length = 0;
  context = await browser.newContext({ viewport: { width: 800, height: 600 } });
  await fresh();
});

afterEach(async () => {
  for (const each of [plain, isolated]) {
    each.pages.clear();
    each.instead.clear();
  }
  await context.close();
});

/** A page of its own; what it complains of and which events it hears are kept. */
async function fresh(options: Parameters<Browser["newContext"]>[0] = {}): Promise<void> {
  await context.close();
  context = await browser.newContext({ viewport: { width: 800, height: 600 }, ...options });
  page = await context.newPage();
  page.setDefaultTimeout(120_000);
  said = complaints(page);
  await page.addInitScript(() => {
    const heard: [string, unknown, boolean][] = [];
    Object.assign(globalThis, { heard, shifts: 0 });
    for (const name of ["offer", "loading", "runtime", "progress", "restored", "fallback"]) {
      document.addEventListener(`faitheir-${name}`, (event) => {
        const { detail } = event as CustomEvent;
        heard.push([name, detail, event.cancelable]);
        if (name === "offer" && (globalThis as { decline?: boolean }).decline) event.preventDefault();
      });
    }
    new PerformanceObserver((list) => {
      for (const entry of list.getEntries()) Object.assign(globalThis, { shifts: entry.startTime });
    }).observe({ type: "layout-shift", buffered: true });
  });
}

const CSS = "body{margin:0}.far{margin-top:3000px}";

/** Opens a page with this body, at `path` of the site. */
async function visit(body: string, path = "/page.html"): Promise<void> {
  site.pages.set(
    path,
    `<!doctype html><html lang="en"><meta charset="utf-8"><title>t</title><meta name="viewport" content="width=device-width">
    <meta http-equiv="Content-Security-Policy" content="${POLICY}"><link rel="icon" href="data:,">
    <link rel="stylesheet" href="/faitheir/faitheir-img.css"><link rel="stylesheet" href="/style.css">
    <script type="module" src="/tiles.js"></script>${body}`,
  );
  // Small tiles, so that small pictures have several.
  const script = `import { configure } from "/faitheir/faitheir-img.js"; configure({ tile: ${TILE} });`;
  site.pages.set("/tiles.js", script);
  site.pages.set("/style.css", CSS);
  await page.goto(site.url + path);
}

function picture(name: string, attributes = ""): string {
  const { width, height } = expected[name] ?? { width: 251, height: 167 };
  return `<faitheir-img src="/${name}" width="${width}" height="${height}" alt="${name}" ${attributes}></faitheir-img>`;
}

type Heard = [name: string, detail: Record<string, unknown>, cancelable: boolean];

async function heard(name?: string): Promise<Heard[]> {
  const all = (await page.evaluate("heard")) as Heard[];
  return name ? all.filter(([kind]) => kind === name) : all;
}

async function state(selector: string, wanted: string): Promise<void> {
  await page.waitForSelector(`${selector}[state="${wanted}"]`, { state: "attached" });
}

/** Calls `restore` in the page: the levels, and what else it gave. */
async function restored(name: string, options: Record<string, unknown> = {}) {
  const found = await page.evaluate(
    async ([name, options]) => {
      const { restore } = await import(`${location.origin}/faitheir/faitheir-img.js`);
      const parts: number[] = [];
      const onTile = (regions: { width: number; height: number }[]): void => {
        parts.push(regions.reduce((sum, { width, height }) => sum + width * height, 0));
      };
      const { picture, report } = await restore(`/${name}`, { ...options, onTile });
      let text = "";
      for (let at = 0; at < picture.data.length; at += 0x8000) {
        text += String.fromCharCode(...picture.data.subarray(at, at + 0x8000));
      }
      return { text: btoa(text), report, parts };
    },
    [name, options] as const,
  );
  return { ...found, rgba: Buffer.from(found.text, "base64") };
}

/** The largest difference of levels, of colours and of alpha. */
function differences(found: Uint8Array, wanted: Uint8Array): { colour: number; alpha: number } {
  assert.equal(found.length, wanted.length);
  const most = { colour: 0, alpha: 0 };
  found.forEach((level, i) => {
    const kind = i % 4 === 3 ? "alpha" : "colour";
    most[kind] = Math.max(most[kind], Math.abs(level - wanted[i]!));
  });
  return most;
}

for (const [precision, allowed] of [["fp32", 1], ["fp16", 2]] as const) {
  for (const name of ["photo0.thumb.png", "photo1.thumb.png", "photo2.thumb.png"]) {
    test(`${name} in ${precision} is what Python restores in float32`, async () => {
      await visit("");
      const { rgba, report, parts } = await restored(name, { precision, tile: TILE });
      const { width, height } = expected[name]!;
      assert.deepEqual([report.width, report.height, report.precision], [width, height, precision]);
      assert.ok(name === "photo2.thumb.png" ? report.tiles === 1 : report.tiles >= 4);
      assert.equal(parts.length, report.tiles);
      assert.equal(parts.reduce((a, b) => a + b), width * height);
      const { colour, alpha } = differences(rgba, read(`${name}.restored`));
      assert.ok(colour <= allowed, `${colour} levels`);
      assert.equal(alpha, 0);
      assert.deepEqual(said, []);
    });
  }
}

for (const name of ["alpha.thumb.png", "alpha.thumb.webp"]) {
  test(`${name}: transparency is kept, and colours beneath it`, async () => {
    await visit("");
    const { rgba } = await restored(name, { precision: "fp32", tile: TILE });
    assert.deepEqual(differences(rgba, read(`${name}.restored`)), { colour: 1, alpha: 0 });
  });
}

test("thumbnails of every format are restored", async () => {
  await visit("");
  for (const name of Object.keys(expected).filter((file) => file.startsWith("photo2-"))) {
    const { rgba, report } = await restored(name, { precision: "fp32", tile: TILE });
    const { width, height } = expected[name]!;
    assert.deepEqual([report.width, report.height], [width, height]);
    const { colour } = differences(rgba, read(`${name}.restored`));
    // Chromium decodes lossy files with its own libraries.
    assert.ok(colour <= (name.includes("lossless") ? 1 : 8), `${name}: ${colour} levels`);
  }
});

// The element.

test("the thumbnail is there at once, in the room of the picture, and becomes it in view", async () => {
  await visit(`${picture("photo0.thumb.png")}<p>below</p>`);
  await state("faitheir-img", "restored");
  const { width, height } = expected["photo0.thumb.png"]!;
  const seen = await page.evaluate(() => {
    const element = document.querySelector("faitheir-img")!;
    const { width, height } = element.getBoundingClientRect();
    const canvas = element.shadowRoot!.querySelector("canvas")!;
    const images = [...element.shadowRoot!.querySelectorAll("img")];
    return { width, height, canvas: [canvas.width, canvas.height], blur: images.map((i) => getComputedStyle(i).filter) };
  });
  assert.deepEqual(seen, { width, height, canvas: [width, height], blur: ["none", "blur(4px)"] });
  const [runtime] = await heard("runtime");
  assert.deepEqual([runtime![1]["device"], runtime![1]["threads"]], ["wasm", 1]);
  const { model, weights, precision, bytes } = await modelFile();
  assert.deepEqual((await heard("offer"))[0], ["offer", { model, weights, precision, bytes }, true]);
  const [done] = await heard("restored");
  assert.equal(done![1]["width"], width);
  assert.equal((await heard("progress")).length, done![1]["tiles"]);
  assert.equal(await page.evaluate("shifts"), 0);
  assert.deepEqual(await heard("fallback"), []);
  assert.deepEqual(said, []);
});

async function modelFile(): Promise<ModelFile> {
  const { files } = JSON.parse(readFileSync(`${FOLDER_OF_SITE}/faitheir/models/index.json`, "utf8")) as Index;
  return files.find(({ precision }) => precision === "fp16")!;
}

test("its pixels on the page are those of `restore`", async () => {
  await visit(picture("photo2.thumb.png", 'precision="fp32"'));
  await state("faitheir-img", "restored");
  const text = await page.evaluate(() => {
    const { picture } = document.querySelector("faitheir-img") as unknown as { picture: HTMLCanvasElement };
    const { data } = picture.getContext("2d")!.getImageData(0, 0, picture.width, picture.height);
    let text = "";
    for (let at = 0; at < data.length; at += 0x8000) text += String.fromCharCode(...data.subarray(at, at + 0x8000));
    return btoa(text);
  });
  assert.ok(differences(Buffer.from(text, "base64"), read("photo2.thumb.png.restored")).colour <= 1);
});

test("ten at once are all restored, by one model that is fetched once", async () => {
  await visit(Array.from({ length: 10 }, (_, i) => picture(`photo${i % 3}.thumb.png`, `id="p${i}"`)).join(""));
  for (let i = 0; i < 10; i++) {
    await page.evaluate((id) => document.getElementById(id)!.scrollIntoView(), `p${i}`);
    await state(`#p${i}`, "restored");
  }
  const { file } = await modelFile();
  assert.equal(site.asked.filter((path) => path.endsWith(file)).length, 1);
  assert.equal((await heard("offer")).length, 1);
  assert.equal((await heard("restored")).length, 10);
  assert.deepEqual(said, []);
});

test("what is out of view waits, and what leaves the view is cancelled and comes back", async () => {
  await visit(`${picture("photo0.thumb.png", 'id="top"')}<p class="far"></p>${picture("photo2.thumb.png", 'id="low"')}`);
  // It leaves in the middle of its work, at the first tile.
  await page.evaluate(() => {
    const leave = (): void => scrollTo(0, 1500);
    document.addEventListener("faitheir-progress", leave, { once: true });
  });
  await state("#top", "thumbnail");
  await page.waitForFunction(() => (globalThis as unknown as { heard: unknown[][] }).heard.some(([n]) => n === "progress"));
  await state("#top", "thumbnail");
  await page.waitForTimeout(500);
  assert.deepEqual(await heard("restored"), []);
  assert.equal(await page.getAttribute("#low", "state"), "thumbnail");
  assert.equal(await page.evaluate("document.querySelector('#top').shadowRoot.querySelector('canvas')"), null);
  await page.evaluate("scrollTo(0, 0)");
  await state("#top", "restored");
  assert.equal(await page.getAttribute("#low", "state"), "thumbnail");
  await page.evaluate("scrollTo(0, document.body.scrollHeight)");
  await state("#low", "restored");
  assert.deepEqual(await heard("fallback"), []);
  assert.deepEqual(said, []);
});

test("removed from the page in the middle of its work, nothing goes on; put back, it starts anew", async () => {
  await visit(picture("photo0.thumb.png"));
  await page.evaluate(() => {
    const element = document.querySelector("faitheir-img")!;
    document.addEventListener("faitheir-progress", () => element.remove(), { once: true });
    Object.assign(globalThis, { element });
  });
  await page.waitForFunction(() => !(globalThis as unknown as { element: Element }).element.isConnected);
  await page.waitForTimeout(500);
  assert.deepEqual(await heard("restored"), []);
  await page.evaluate("document.body.append(element)");
  await state("faitheir-img", "restored");
  assert.deepEqual(said, []);
});

test("another `src` starts anew", async () => {
  await visit(picture("photo2.thumb.png"));
  await state("faitheir-img", "restored");
  await page.evaluate("document.querySelector('faitheir-img').setAttribute('src', '/photo1.thumb.png')");
  await page.waitForFunction(
    (width) => (document.querySelector("faitheir-img") as unknown as { report?: { width: number } }).report?.width === width,
    expected["photo1.thumb.png"]!.width,
  );
  assert.deepEqual(said, []);
});

test("`restore` is cancelled by its signal", async () => {
  await visit("");
  const reason = await page.evaluate(async () => {
    const { restore } = await import(`${location.origin}/faitheir/faitheir-img.js`);
    const control = new AbortController();
    const onTile = (): void => control.abort();
    return restore("/photo0.thumb.png", { tile: 256, signal: control.signal, onTile }).catch((e: { reason: string }) => e.reason);
  });
  assert.equal(reason, "cancelled");
  assert.deepEqual(said, []);
});

test("back and forward: the picture is there again, and the model is not fetched again", async () => {
  await visit(`${picture("photo2.thumb.png")}<a href="/other.html">other</a>`);
  await state("faitheir-img", "restored");
  const { file } = await modelFile();
  site.asked.length = 0;
  await visit("<p>other</p>", "/other.html");
  await page.goBack();
  await state("faitheir-img", "restored");
  await page.goForward();
  await page.goBack();
  await state("faitheir-img", "restored");
  assert.deepEqual(site.asked.filter((path) => path.endsWith(file)), []);
  assert.deepEqual(said, []);
});

test("left in the middle of its work, and come back to", async () => {
  await visit(picture("photo0.thumb.png"));
  await state("faitheir-img", "restoring");
  await visit("<p>other</p>", "/other.html");
  await page.goBack();
  await state("faitheir-img", "restored");
  assert.deepEqual(said, []);
});

test("the second page takes the model from the cache and does not ask", async () => {
  await visit(picture("photo2.thumb.png"));
  await state("faitheir-img", "restored");
  site.asked.length = 0;
  await visit(picture("photo2.thumb.png"), "/second.html");
  await state("faitheir-img", "restored");
  assert.deepEqual(await heard("offer"), []);
  assert.deepEqual(site.asked.filter((path) => path.endsWith(".onnx")), []);
  assert.equal((await heard("restored"))[0]![1]["cached"], true);
});

test("a model that the site replaced is fetched anew, and the old one is forgotten", async () => {
  await visit(picture("photo2.thumb.png"));
  await state("faitheir-img", "restored");
  const { file } = await modelFile();
  const keys = (): Promise<string[]> =>
    page.evaluate(async () => (await (await caches.open("faitheir-models")).keys()).map(({ url }) => url));
  const [key] = await keys();
  // What is in the cache under a name of the site's index, but is not what that describes.
  await page.evaluate(async (key) => (await caches.open("faitheir-models")).put(key!, new Response("x")), key);
  site.asked.length = 0;
  await visit(picture("photo2.thumb.png"), "/second.html");
  await state("faitheir-img", "restored");
  assert.equal(site.asked.filter((path) => path.endsWith(file)).length, 1);
  assert.deepEqual(await keys(), [key]);
});

// What goes wrong.

const OTHER = JSON.stringify({ format: 1, files: [] });

for (const [what, reason, change, options] of [
  ["an unknown model", "unknown-model", { "index.json": () => Buffer.from(OTHER) }],
  ["a model file that is cut short", "damaged-model", { onnx: (body: Buffer) => body.subarray(0, body.length / 2) }],
  ["a model file with other bytes", "damaged-model", { onnx: (body: Buffer) => Buffer.from(body).fill(7, 5000, 5100) }],
  ["a model file that is longer", "damaged-model", { onnx: (body: Buffer) => Buffer.concat([body, body]) }],
  ["a model file that is not there", "no-model", { onnx: () => 404 }],
  ["a list of models that is not there", "no-model", { "index.json": () => 500 }],
  ["a list of models that is none", "no-model", { "index.json": () => Buffer.from("<html>") }],
  ["a runtime that is not there", "no-model", { "ort.wasm.min.mjs": () => 404 }],
  ["a runtime whose WASM is not there", "no-model", { "ort-wasm-simd-threaded.wasm": () => 404 }],
  ["a worker that is not there", "failed", { "worker.js": () => 404 }],
  ["a thumbnail that is not there", "no-picture", { "photo2.thumb.png": () => 404 }],
  ["a thumbnail that is no picture", "no-picture", { "photo2.thumb.png": () => Buffer.from("hello") }],
  ["a picture without metadata", "no-metadata", { "photo2.thumb.png": () => Buffer.from(read("plain.png")) }],
  ["damaged metadata", "no-metadata", { "photo2.thumb.png": () => Buffer.from(read("damaged.thumb.png")) }],
  ["a precision that the site does not hold", "unknown-model", {}, 'precision="int8"'],
  ["a fidelity that the site does not hold", "unknown-model", {}, 'fidelity="1"'],
] as [string, string, Record<string, (body: Buffer) => Buffer | number>, string?][]) {
  test(`${what}: the enlarged thumbnail stays, and an event says why`, async () => {
    const { file } = await modelFile();
    const places: Record<string, string> = {
      "index.json": "/faitheir/models/index.json",
      onnx: `/faitheir/models/${file}`,
      "worker.js": "/faitheir/worker.js",
      "photo2.thumb.png": "/photo2.thumb.png",
    };
    for (const [name, answer] of Object.entries(change)) site.instead.set(places[name] ?? `/faitheir/ort/${name}`, answer);
    await visit(picture("photo2.thumb.png", options));
    await state("faitheir-img", "fallback");
    const found = await heard("fallback");
    assert.equal(found.length, 1);
    assert.equal(found[0]![1]["reason"], reason, String(found[0]![1]["message"]));
    assert.match(String(found[0]![1]["message"]), / .+\.$/s);
    assert.equal(await page.evaluate("document.querySelector('faitheir-img').shadowRoot.querySelector('canvas')"), null);
    const { width, height } = expected["photo2.thumb.png"]!;
    const box = (await page.locator("faitheir-img").boundingBox())!;
    assert.deepEqual([box.width, box.height], [width, height]);
    // On the console is what the browser itself says of an answer of 404 or 500, and the runtime of its own file.
    const others = /status of (404|500)/;
    const runtimes = what.includes("WASM") ? /wasm|WebAssembly|ArrayBuffer/i : others;
    assert.deepEqual(said.filter((text) => !others.test(text) && !runtimes.test(text)), []);
  });
}

test("what could not be fetched once is fetched the next time", async () => {
  const { file } = await modelFile();
  site.instead.set(`/faitheir/models/${file}`, () => 503);
  await visit(picture("photo2.thumb.png"));
  await state("faitheir-img", "fallback");
  site.instead.clear();
  await page.evaluate("document.querySelector('faitheir-img').restore()");
  await state("faitheir-img", "restored");
});

test("a picture without metadata is restored by the model that the page names", async () => {
  const { model } = await modelFile();
  await visit(`<faitheir-img src="/plain.png" width="688" height="464" model="${model}"></faitheir-img>`);
  await state("faitheir-img", "restored");
  const [done] = await heard("restored");
  assert.deepEqual([done![1]["width"], done![1]["height"], done![1]["model"]], [688, 464, model]);
});

test("a page that declines the download keeps the thumbnail", async () => {
  await page.addInitScript(() => Object.assign(globalThis, { decline: true }));
  await visit(picture("photo2.thumb.png") + picture("photo1.thumb.png", 'id="b"'));
  await state("#b", "fallback");
  assert.deepEqual((await heard("fallback")).map(([, { reason }]) => reason), ["declined", "declined"]);
  assert.deepEqual(site.asked.filter((path) => path.endsWith(".onnx") || path.endsWith(".wasm")), []);
});

test("a picture above the limit is not restored", async () => {
  await visit("");
  const reason = await page.evaluate(async () => {
    const { configure, restore } = await import(`${location.origin}/faitheir/faitheir-img.js`);
    configure({ maxPixels: 251 * 166 });
    return restore("/photo2.thumb.png").catch((error: { reason: string }) => error.reason);
  });
  assert.equal(reason, "too-large");
});

test("a browser without workers shows the thumbnail and says so", async () => {
  await page.addInitScript("delete globalThis.Worker");
  await visit(picture("photo2.thumb.png"));
  await state("faitheir-img", "fallback");
  assert.equal((await heard("fallback"))[0]![1]["reason"], "unsupported");
  assert.deepEqual(said, []);
});

// What visitors ask of their browser.

test("where less data is asked for, nothing is fetched but the thumbnail, until the page or the visitor asks", async () => {
  const session = await context.newCDPSession(page);
  const features = [{ name: "prefers-reduced-data", value: "reduce" }];
  await session.send("Emulation.setEmulatedMedia", { features });
  await page.addInitScript("Object.defineProperty(navigator, 'connection', { value: { saveData: true } })");
  await visit(picture("photo2.thumb.png"));
  await state("faitheir-img", "fallback");
  assert.equal((await heard("fallback"))[0]![1]["reason"], "reduced-data");
  assert.deepEqual(site.asked.filter((path) => /onnx$|wasm|ort/.test(path)), []);
  await page.evaluate("document.querySelector('faitheir-img').restore()");
  await state("faitheir-img", "restored");
  // Now that the model is there, restoring takes no data.
  await visit(picture("photo2.thumb.png"), "/second.html");
  await state("faitheir-img", "restored");
});

test("motion is reduced where that is asked for", async () => {
  const transition = (): Promise<string> =>
    page.evaluate(() => getComputedStyle(document.querySelector("faitheir-img")!.shadowRoot!.querySelector("canvas")!).transition);
  await visit(picture("photo2.thumb.png"));
  await state("faitheir-img", "restored");
  assert.match(await transition(), /opacity 0.4s/);
  await page.emulateMedia({ reducedMotion: "reduce" });
  assert.doesNotMatch(await transition(), /0.4s/);
});

test("transparent pictures replace their thumbnail, and show the page behind them", async () => {
  await visit(picture("alpha.thumb.png"));
  await state("faitheir-img", "restored");
  const seen = await page.evaluate(() => {
    const root = document.querySelector("faitheir-img")!.shadowRoot!;
    const canvas = root.querySelector("canvas")!;
    const { data } = canvas.getContext("2d")!.getImageData(0, 0, canvas.width, 1);
    return { small: getComputedStyle(root.querySelector("div")!).opacity, first: data[3], last: data.at(-1) };
  });
  assert.deepEqual(seen, { small: "0", first: 0, last: 255 });
});

test("without script the static picture inside is shown, and with it, it is the thumbnail", async () => {
  const body = '<faitheir-img><img src="/photo2.thumb.png" width="251" height="167" alt="a cat"></faitheir-img>';
  await visit(body);
  await state("faitheir-img", "restored");
  const named = (): Promise<number> => page.getByRole("img", { name: "a cat" }).count();
  assert.equal(await named(), 1);
  assert.equal(await page.evaluate("shifts"), 0);
  await fresh({ javaScriptEnabled: false });
  await visit(body);
  assert.equal(await named(), 1);
  const box = (await page.locator("faitheir-img img").boundingBox())!;
  assert.deepEqual([box.width, box.height], [251, 167]);
});

test("on a narrow screen it is as wide as the screen, and keeps its shape", async () => {
  await fresh({ viewport: { width: 390, height: 800 } });
  await visit(picture("photo0.thumb.png"));
  await state("faitheir-img", "restored");
  const box = (await page.locator("faitheir-img").boundingBox())!;
  assert.equal(box.width, 390);
  assert.ok(Math.abs(box.height - (390 * 397) / 599) < 1);
  assert.equal(await page.evaluate("shifts"), 0);
});

test("everything comes from the site itself", async () => {
  const elsewhere: string[] = [];
  context.on("request", (request) => {
    if (!/^(data|blob):/.test(request.url()) && !request.url().startsWith(site.url)) elsewhere.push(request.url());
  });
  await visit(picture("photo2.thumb.png"));
  await state("faitheir-img", "restored");
  assert.deepEqual(elsewhere, []);
});

// What computes.

test("without WebGPU and isolation it says so: WASM, one thread", async () => {
  await visit(picture("photo2.thumb.png"));
  await state("faitheir-img", "restored");
  const [[, runtime]] = (await heard("runtime")) as [Heard];
  assert.deepEqual([runtime["device"], runtime["threads"]], ["wasm", 1]);
  const [noGpu, noThreads] = runtime["fallbacks"] as string[];
  assert.match(noGpu!, /WebGPU/);
  assert.match(noThreads!, /not cross-origin isolated/);
});

test("on an isolated page it takes two threads, and the pixels are the same", async () => {
  site = isolated;
  await visit("");
  const { rgba, report } = await restored("photo0.thumb.png", { precision: "fp32", tile: TILE, threads: 2, device: "wasm" });
  assert.deepEqual(report.runtime, { device: "wasm", threads: 2, fallbacks: [] });
  assert.ok(differences(rgba, read("photo0.thumb.png.restored")).colour <= 1);
  assert.deepEqual(said, []);
});

// Some kernels of onnxruntime-web 1.30 are wrong on this emulation: what is wrong must not be shown.
test("WebGPU, emulated on the processor: taken where its values are right, and never by itself", async (t) => {
  const flags = ["--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader", "--enable-unsafe-swiftshader"];
  const emulating = await launch(...flags);
  t.after(() => emulating.close());
  context = await emulating.newContext();
  page = await context.newPage();
  await visit("");
  if (!(await page.evaluate("navigator.gpu?.requestAdapter().then((adapter) => adapter !== null)"))) {
    return t.skip("this Chromium emulates no WebGPU");
  }
  const { rgba, report } = await restored("photo2.thumb.png", { precision: "fp32", tile: TILE, device: "webgpu" });
  assert.ok(differences(rgba, read("photo2.thumb.png.restored")).colour <= 1);
  if (report.runtime.device === "wasm") assert.match(report.runtime.fallbacks[0]!, /WebGPU cannot be used.+levels/);
  else assert.deepEqual(report.runtime.fallbacks, []);
  const { report: automatic } = await restored("photo2.thumb.png", { tile: TILE });
  assert.equal(automatic.runtime.device, "wasm");
  assert.match(automatic.runtime.fallbacks[0]!, /emulated/);
});

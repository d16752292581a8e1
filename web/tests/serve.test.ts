/** The page of `faitheir serve`, whose server offers what a browser restores with. */

import assert from "node:assert/strict";
import { execFileSync, spawn, type ChildProcess } from "node:child_process";
import { rmSync } from "node:fs";
import { after, before, test } from "node:test";
import type { Browser, Page } from "playwright-core";

import { complaints, launch } from "./browser.js";
import { expected, FOLDER, read } from "./fixtures.js";

const PYTHON = process.env["PYTHON"] ?? "../.venv/bin/python";
const THUMBNAIL = "photo2.thumb.png";

let server: ChildProcess;
let address: string;
let browser: Browser;

before(async () => {
  const folder = `${FOLDER}-serve`;
  rmSync(folder, { recursive: true, force: true });
  execFileSync(process.execPath, ["bin/faitheir-img.mjs", folder, `${FOLDER}/models`]);
  const words = ["-m", "faitheir", "serve", "--port", "0", "--model", `${FOLDER}/model`, "--browser", folder];
  server = spawn(PYTHON, [...words, "--device", "cpu", "--dtype", "float32"], { stdio: ["ignore", "pipe", "inherit"] });
  address = await new Promise((found, failed) => {
    let said = "";
    server.stdout!.on("data", (data) => {
      said += String(data);
      const [url] = /http:\S+/.exec(said) ?? [];
      if (url) found(url);
    });
    server.on("exit", () => failed(new Error(`faitheir serve ended: ${said}`)));
  });
  browser = await launch();
});

after(async () => {
  await browser?.close();
  server?.removeAllListeners("exit").kill("SIGTERM");
});

interface Visit {
  page: Page;
  said: string[];
  /** Addresses to which something was sent. */
  sent: string[];
}

/** The page, with the choice made or not, and what restores a thumbnail that was dropped. */
async function visit(here: boolean, prepare: (page: Page) => Promise<unknown> = async () => {}): Promise<Visit> {
  const page = await (await browser.newContext()).newPage();
  page.setDefaultTimeout(120_000);
  const said = complaints(page);
  const sent: string[] = [];
  page.on("request", (request) => {
    if (request.method() !== "GET") sent.push(new URL(request.url()).pathname);
  });
  await prepare(page);
  await page.goto(address);
  await page.waitForSelector("#model option", { state: "attached" });
  await page.selectOption("#picture-format", "png");
  await page.setChecked("#here", here);
  await page.setInputFiles("#thumbnails", `${FOLDER}/${THUMBNAIL}`);
  await page.waitForSelector("#look:not([hidden])");
  return { page, said, sent };
}

const restoredBy = (page: Page): Promise<string> =>
  page.locator("#facts dt", { hasText: "Restored by" }).locator("xpath=following-sibling::dd[1]").innerText();

/** The largest difference of the picture that the page offers from Python's. */
async function difference(page: Page): Promise<number> {
  const { width, height } = expected[THUMBNAIL]!;
  const found = await page.evaluate(async () => {
    const link = document.getElementById("download-picture") as HTMLAnchorElement;
    const image = await createImageBitmap(await (await fetch(link.href)).blob());
    const context = new OffscreenCanvas(image.width, image.height).getContext("2d")!;
    context.drawImage(image, 0, 0);
    return { size: [image.width, image.height], data: [...context.getImageData(0, 0, image.width, image.height).data] };
  });
  assert.deepEqual(found.size, [width, height]);
  return read(`${THUMBNAIL}.restored`).reduce((most, value, i) => Math.max(most, Math.abs(value - found.data[i]!)), 0);
}

test("the browser restores, and nothing is sent", async () => {
  const { page, said, sent } = await visit(true);
  assert.match(await restoredBy(page), /^this browser, by WebAssembly with (one thread|\d threads)$/);
  assert.equal(await page.evaluate("crossOriginIsolated"), true);
  assert.deepEqual(sent, []);
  assert.deepEqual(said, []);
  await page.setChecked("#here", false);
  await page.waitForFunction(() => document.getElementById("facts")!.textContent!.includes("this server"));
  assert.deepEqual(sent, ["/v1/thumbnails/describe", "/v1/pictures"]);
  await page.context().close();
});

test("pixels are Python's", async () => {
  const { page } = await visit(true, (page) => page.route("**/", async (route) => {
    // To read back what the page made, the test needs what the page itself does not.
    const response = await route.fetch();
    const headers = response.headers();
    headers["content-security-policy"] = headers["content-security-policy"]!.replace("connect-src 'self'", "connect-src 'self' blob:");
    await route.fulfill({ response, headers });
  }));
  assert.ok((await difference(page)) <= 2);
  await page.context().close();
});

test("what the browser cannot restore, the server does, and the page says so", async () => {
  const { page, sent } = await visit(true, (page) => page.route("**/*.onnx", (route) => route.abort()));
  assert.match(await restoredBy(page), /^this server, since this browser did not: .+ cannot be fetched/);
  assert.deepEqual(sent, ["/v1/thumbnails/describe", "/v1/pictures"]);
  await page.context().close();
});

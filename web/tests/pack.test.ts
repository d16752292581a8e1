/** The package as others get it: packed, installed into an empty project, on a page of its own. */

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { cpSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { after, test } from "node:test";

import { complaints, launch, serve } from "./browser.js";
import { expected, FOLDER } from "./fixtures.js";

const folder = mkdtempSync(join(tmpdir(), "faitheir-img-"));
after(() => rmSync(folder, { recursive: true, force: true }));

function run(program: string, ...words: string[]): string {
  return execFileSync(program, words, { cwd: folder, encoding: "utf8" });
}

test("packed and installed elsewhere, it restores a picture", async (t) => {
  const quiet = ["--no-audit", "--no-fund", "--prefer-offline", "--ignore-scripts", "--silent"];
  const packed = run("npm", "pack", resolve("."), "--ignore-scripts", "--json");
  const [{ filename, files }] = JSON.parse(packed) as [{ filename: string; files: { path: string }[] }];
  const paths = files.map(({ path }) => path);
  assert.deepEqual(paths.filter((path) => !/^(package\.json|README\.md|LICENSE|bin\/|dist\/)/.test(path)), []);
  for (const path of ["bin/faitheir-img.mjs", "dist/faitheir-img.js", "dist/worker.js", "dist/faitheir-img.css", "dist/types/index.d.ts"]) {
    assert.ok(paths.includes(path), path);
  }
  writeFileSync(join(folder, "package.json"), '{ "name": "site", "version": "1.0.0", "private": true }');
  run("npm", "install", ...quiet, `./${filename}`);
  mkdirSync(join(folder, "site"));
  run("npx", "faitheir-img", "site/faitheir", resolve(FOLDER, "models"));
  const name = "photo2.thumb.png";
  cpSync(`${FOLDER}/${name}`, join(folder, "site", name));
  const { width, height } = expected[name]!;
  const page = `<!doctype html><html lang="en"><title>t</title><link rel="icon" href="data:,">
    <link rel="stylesheet" href="faitheir/faitheir-img.css"><script type="module" src="faitheir/faitheir-img.js"></script>
    <faitheir-img src="${name}" width="${width}" height="${height}" alt="a cat"></faitheir-img>`;
  writeFileSync(join(folder, "site/index.html"), page);

  const [site, browser] = await Promise.all([serve(join(folder, "site")), launch()]);
  t.after(() => Promise.all([site.close(), browser.close()]));
  const visited = await browser.newPage();
  const said = complaints(visited);
  await visited.goto(site.url, { timeout: 0 });
  await visited.waitForSelector('faitheir-img[state="restored"]', { timeout: 120_000 });
  assert.deepEqual(said, []);
});

test("the command says what is wrong, in one sentence", () => {
  const wrong = (...words: string[]): { status: number; stderr: string } => {
    try {
      execFileSync(process.execPath, ["bin/faitheir-img.mjs", ...words], { encoding: "utf8", stdio: "pipe" });
    } catch (error) {
      return error as { status: number; stderr: string };
    }
    throw new Error("it succeeded");
  };
  assert.equal(wrong().status, 2);
  const empty = join(folder, "empty");
  mkdirSync(empty);
  const { status, stderr } = wrong(join(folder, "out"), empty);
  assert.equal(status, 1);
  assert.match(stderr, /^faitheir-img: .+holds no decoder half; make one by `faitheir export MODEL --half up -o .+`\.\n$/);

  cpSync(`${FOLDER}/models`, join(folder, "models"), { recursive: true });
  const [name] = readdirSync(join(folder, "models")).filter((file) => file.endsWith(".onnx"));
  const file = join(folder, "models", name!);
  writeFileSync(file, readFileSync(file).subarray(0, 1000));
  assert.match(wrong(join(folder, "out"), join(folder, "models")).stderr, /is not what the JSON beside it describes/);
});

#!/usr/bin/env node
// Puts what a site needs into one of its folders: this package's scripts, onnxruntime-web, and models.
import { createHash } from "node:crypto";
import { copyFileSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { basename, dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const USAGE = `Usage: faitheir-img FOLDER [MODELS]

Copies the scripts and onnxruntime-web into FOLDER, a folder of your site, and the models in MODELS into FOLDER/models.
MODELS is a folder that \`faitheir export MODEL --half up -o MODELS\` wrote.`;

const RUNTIME = [
  ["ort.wasm.min.mjs", "ort-wasm-simd-threaded"],
  ["ort.jspi.min.mjs", "ort-wasm-simd-threaded.jspi"],
  ["ort.webgpu.min.mjs", "ort-wasm-simd-threaded.asyncify"],
];

function copyScripts(folder) {
  const dist = join(dirname(fileURLToPath(import.meta.url)), "..", "dist");
  // Its main file, which lies in its dist/.
  const runtime = dirname(createRequire(import.meta.url).resolve("onnxruntime-web"));
  mkdirSync(join(folder, "ort"), { recursive: true });
  for (const name of readdirSync(dist).filter((file) => /\.(js|css)$/.test(file) && file !== "probe.js")) copyFileSync(join(dist, name), join(folder, name));
  for (const [script, wasm] of RUNTIME) {
    for (const name of [script, `${wasm}.mjs`, `${wasm}.wasm`]) copyFileSync(join(runtime, name), join(folder, "ort", name));
  }
}

/** What a model gives for a fixed thumbnail, by WASM, which WebGPU is checked by. */
async function probe(data, file) {
  const ort = await import("onnxruntime-web");
  const { probeInput, probeValues } = await import("../dist/probe.js");
  ort.env.wasm.numThreads = 1;
  const session = await ort.InferenceSession.create(data, { executionProviders: ["wasm"], logSeverityLevel: 4 });
  const { thumbnail, height, width, origin } = probeInput(file);
  const { picture } = await session.run({
    thumbnail: new ort.Tensor("float32", thumbnail, [1, 3, height, width]),
    origin: new ort.Tensor("int32", Int32Array.from(origin), [2]),
  });
  await session.release();
  return probeValues(picture.data);
}

/** The decoder halves of a folder, whole as their descriptions say, and a list of them. */
async function copyModels(from, to) {
  const names = readdirSync(from).filter((name) => name.endsWith(".json") && name !== "index.json");
  const files = names.map((name) => JSON.parse(readFileSync(join(from, name), "utf8"))).filter((file) => file.half === "up");
  if (!files.length) throw new Error(`${from} holds no decoder half; make one by \`faitheir export MODEL --half up -o ${from}\`.`);
  mkdirSync(to, { recursive: true });
  for (const about of files) {
    const { file, bytes, sha256 } = about;
    const data = readFileSync(join(from, file));
    if (data.length !== bytes || createHash("sha256").update(data).digest("hex") !== sha256) {
      throw new Error(`${join(from, file)} is not what the JSON beside it describes; export it again.`);
    }
    copyFileSync(join(from, file), join(to, file));
    about.probe = await probe(data, about);
  }
  writeFileSync(join(to, "index.json"), `${JSON.stringify({ format: 1, files })}\n`);
}

try {
  const [folder, models, ...more] = process.argv.slice(2);
  if (!folder || folder.startsWith("-") || more.length) {
    console.log(USAGE);
    process.exitCode = folder === "--help" || folder === "-h" ? 0 : 2;
  } else {
    copyScripts(folder);
    if (models) await copyModels(models, join(folder, "models"));
    console.log(`${folder} is ready: <script type="module" src="…/${basename(folder)}/faitheir-img.js"></script>`);
  }
} catch (error) {
  console.error(`faitheir-img: ${error.message}`);
  process.exitCode = 1;
}

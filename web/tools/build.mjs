// Bundles the package into dist/, with its types, and the tests into build/tests/.
import { build } from "esbuild";
import { execFileSync } from "node:child_process";
import { copyFileSync, readdirSync, rmSync } from "node:fs";

for (const folder of ["dist", "build/tests"]) rmSync(folder, { recursive: true, force: true });
const common = { bundle: true, format: "esm", target: "es2022", logLevel: "warning" };
await build({
  ...common,
  entryPoints: { "faitheir-img": "src/index.ts", worker: "src/worker.ts", probe: "src/probe.ts" },
  outdir: "dist",
  minify: true,
  sourcemap: true,
  sourcesContent: true,
});
copyFileSync("src/faitheir-img.css", "dist/faitheir-img.css");
copyFileSync("../LICENSE", "dist/LICENSE");
execFileSync(process.execPath, ["node_modules/typescript/bin/tsc", "--project", "tsconfig.types.json"], { stdio: "inherit" });
await build({
  ...common,
  entryPoints: readdirSync("tests").filter((name) => /(test|measure|shots)\.ts$/.test(name)).map((name) => `tests/${name}`),
  outdir: "build/tests",
  platform: "node",
  packages: "external",
});

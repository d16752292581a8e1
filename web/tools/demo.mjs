// Builds the gallery into build/demo/, a folder for any static server. Usage: node tools/demo.mjs MODELS
// MODELS is what `faitheir export nano-x16 --half up --precision fp16 -o MODELS` wrote.
import { execFileSync } from "node:child_process";
import { cpSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";

const [models] = process.argv.slice(2);
if (!models) {
  console.error("Say where the models are: npm run demo -- MODELS (faitheir export nano-x16 --half up --precision fp16 -o MODELS).");
  process.exit(2);
}
const LICENCES = {
  "CC BY 4.0": "https://creativecommons.org/licenses/by/4.0/",
  "CC BY-SA 4.0": "https://creativecommons.org/licenses/by-sa/4.0/",
  "CC BY-SA 3.0": "https://creativecommons.org/licenses/by-sa/3.0/",
  "CC0 1.0": "https://creativecommons.org/publicdomain/zero/1.0/",
};
const pictures = JSON.parse(readFileSync("demo/pictures.json", "utf8"));
const number = (value) => value.toLocaleString("en");
const figures = pictures.map(({ file, title, author, licence, source, width, height, bytes, jpeg }, i) => {
  const address = LICENCES[licence];
  const terms = address ? `<a href="${address}" rel="license">${licence}</a>` : licence;
  return `      <figure>
        <faitheir-img width="${width}" height="${height}">
          <img src="thumbnails/${file}" width="${width}" height="${height}" alt="${title}"${i > 3 ? ' loading="lazy"' : ""}>
        </faitheir-img>
        <figcaption>${title} <span>${number(bytes)} bytes, as a JPEG ${number(jpeg)}</span>
          <span>${author}, ${terms}; ${source}</span></figcaption>
      </figure>`;
});
const sum = (key) => pictures.reduce((total, picture) => total + picture[key], 0);
const words = { count: "Twenty", small: number(sum("bytes")), large: number(sum("jpeg")), figures: figures.join("\n") };
if (pictures.length !== 20) words.count = number(pictures.length);
const page = readFileSync("demo/index.html", "utf8").replace(/\{\{(\w+)\}\}/g, (_, key) => words[key]);

const out = "build/demo";
rmSync(out, { recursive: true, force: true });
mkdirSync(out, { recursive: true });
execFileSync(process.execPath, ["bin/faitheir-img.mjs", `${out}/faitheir`, models], { stdio: "inherit" });
writeFileSync(`${out}/index.html`, page);
for (const name of ["gallery.css", "gallery.js", "thumbnails"]) cpSync(`demo/${name}`, `${out}/${name}`, { recursive: true });
console.log(`${out} is ready: python3 -m http.server --directory ${out}`);

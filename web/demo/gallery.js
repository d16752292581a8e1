import "./faitheir/faitheir-img.js";

const status = document.querySelector("#status");
const megabytes = (bytes) => `${(bytes / 1e6).toFixed(1)} MB`;
let runtime = "";
let done = 0;
let seconds = 0;

const on = (name, act) => document.addEventListener(`faitheir-${name}`, (event) => act(event.detail, event.target));
const say = (text) => (status.textContent = text);

say("The photographs are restored as they come into view.");
on("offer", ({ model, bytes }) => say(`The model ${model} is fetched: ${megabytes(bytes)}, once; your browser keeps it.`));
on("loading", ({ loaded, total }) => say(`The model is fetched: ${megabytes(loaded)} of ${megabytes(total)}.`));
on("runtime", ({ device, threads, fallbacks }) => {
  const by = device === "webgpu" ? "WebGPU" : `WASM, ${threads} ${threads === 1 ? "thread" : "threads"}`;
  runtime = [`Computed by ${by}.`, ...fallbacks].join(" ");
});
on("progress", ({ done: tiles, tiles: all }, { lastElementChild: image }) => say(`${image.alt}: tile ${tiles} of ${all}. ${runtime}`));
on("restored", ({ took }) => {
  done += 1;
  seconds += took.tiles / 1000;
  say(`${done} restored, ${(seconds / done).toFixed(1)} s each. ${runtime}`);
});
on("fallback", ({ message }) => say(`The thumbnail stays, enlarged: ${message}`));

document.querySelector("#small").addEventListener("change", ({ target }) => {
  document.body.classList.toggle("small", target.checked);
});

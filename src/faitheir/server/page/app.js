import { Pane, Stage, fullScreen } from "/assets/slider.js";
import { zip } from "/assets/zip.js";

const at = (id) => document.getElementById(id);
const make = (name, properties = {}, ...children) => {
  const element = Object.assign(document.createElement(name), properties);
  element.append(...children);
  return element;
};

// Words around numbers are English; numbers and units are the reader's.
const number = (value, digits = 0) =>
  new Intl.NumberFormat(undefined, { minimumFractionDigits: digits, maximumFractionDigits: digits }).format(value);
const unit = (value, name, digits = 0, unitDisplay = "short") => new Intl.NumberFormat(undefined, {
  style: "unit", unit: name, unitDisplay, maximumFractionDigits: digits, minimumFractionDigits: digits,
}).format(value);
const bytes = (count) => (count < 1000 ? unit(count, "byte", 0, "long") : count < 1e6 ? unit(count / 1000, "kilobyte", 1)
  : unit(count / 1e6, "megabyte", 1));
const pixels = ([width, height]) => `${number(width)} × ${number(height)}`;
const decibels = (value) => (Number.isFinite(value) ? `${number(value, 2)} dB` : "∞ dB");
const say = (text) => { at("status").textContent = text; };

const EXTENSIONS = { "image/png": "png", "image/webp": "webp", "image/avif": "avif", "image/jpeg": "jpg", "image/tiff": "tiff" };
const FORMATS = { png: "PNG (lossless)", webp: "WebP", avif: "AVIF", jpg: "JPEG" };
// Pictures that the server is asked for at once: one is sent while the other is worked on.
const AT_ONCE = 2;

let models = [];
const items = [];
let shown = null;    // of items
let running = 0;

// The server.

let token = new URLSearchParams(location.hash.slice(1)).get("token") ?? sessionStorage.getItem("token");
if (token) sessionStorage.setItem("token", token);
if (location.hash) history.replaceState(null, "", location.pathname);

class Refused extends Error {}

const sleep = (seconds, signal) => new Promise((resolve, reject) => {
  const timer = setTimeout(resolve, 1000 * seconds);
  signal?.addEventListener("abort", () => { clearTimeout(timer); reject(signal.reason); }, { once: true });
});

/** The server's answer; waits and asks again while it has too much work. Raises Refused with its sentence. */
async function ask(path, { body, signal, waiting = () => {} } = {}) {
  for (;;) {
    const headers = token ? { Authorization: `Bearer ${token}` } : {};
    let response;
    try {
      response = await fetch(path, { method: body ? "POST" : "GET", body, headers, signal });
    } catch (error) {
      if (signal?.aborted) throw error;
      throw new Refused("The server cannot be reached; check that it runs.");
    }
    if (response.ok) return response;
    if (response.status === 429) {
      waiting();
      await sleep(Number(response.headers.get("Retry-After")) || 5, signal);
      continue;
    }
    if (response.status === 401) at("access").hidden = false;
    const problem = await response.json().catch(() => ({}));
    throw new Refused(problem.detail ?? `The server answered ${response.status}.`);
  }
}

/** The lines of an answer, as they come. */
async function* lines(response) {
  let rest = "";
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const parts = (rest + value).split("\n");
    rest = parts.pop();
    for (const part of parts) yield JSON.parse(part);
  }
}

const decoded = (line) => new Blob([Uint8Array.from(atob(line.data), (c) => c.charCodeAt(0))], { type: line.type });

async function start() {
  try {
    models = await (await ask("/v1/models")).json();
  } catch (error) {
    say(error.message);
    return;
  }
  const document_ = await (await ask("/v1/openapi.json")).json();
  const thumbnails = document_.paths["/v1/thumbnails"].post;
  const formats = Object.keys(thumbnails.responses[200].content);
  at("model").replaceChildren(...models.map(({ name, scale }) =>
    make("option", { value: name, textContent: `${scale}× smaller (${name})` })));
  at("thumbnail-format").replaceChildren(...formats.map((type) =>
    make("option", { value: EXTENSIONS[type], textContent: FORMATS[EXTENSIONS[type]] })));
  at("thumbnail-format").value = thumbnails.parameters.find(({ name }) => name === "format").schema.default;
  at("access").hidden = true;
  say("");
}

at("access").addEventListener("submit", (event) => {
  event.preventDefault();
  token = at("token").value;
  sessionStorage.setItem("token", token);
  start();
});

// Measuring.

const measurer = new Worker("/assets/measure.js", { type: "module" });
const measured = new Map();
measurer.addEventListener("message", ({ data }) => {
  measured.get(data.id)?.(data);
  measured.delete(data.id);
});
let measurements = 0;
const measure = (original, restored) => new Promise((resolve) => {
  const id = ++measurements;
  measured.set(id, resolve);
  measurer.postMessage({ id, original, restored });
});

// The queue.

const STATES = {
  waiting: "Waits", queued: "Waits: the server has much to do", down: "Thumbnail is being made", up: "Picture is being restored",
  done: "Done", failed: "Failed", cancelled: "Cancelled",
};
const BUSY = ["waiting", "queued", "down", "up"];

/** What the server says of a thumbnail file. */
const describe = async (file, signal) => (await ask("/v1/thumbnails/describe", { body: file, signal })).json();

/** Whether a small file is a thumbnail of this program's. */
const isThumbnail = (file) => file.size < 1e6 && describe(file).then(({ made_by: made }) => made !== null, () => false);

async function add(files, kind) {
  for (const file of files) {
    const thumbnail = kind === "thumbnail" || (kind === null && await isThumbnail(file));
    const item = {
      name: file.name || "pasted.png", file, original: thumbnail ? null : file, thumbnail: thumbnail ? file : null,
      restored: null, state: "waiting", abort: new AbortController(), rivals: [], values: null, error: "",
      fidelity: Number(at("fidelity").value), model: thumbnail ? undefined : at("model").value,
      format: at("thumbnail-format").value, picture: at("picture-format").value, urls: new Map(),
    };
    items.push(item);
    at("queue").append(entry(item));
  }
  at("queue-section").hidden = !items.length;
  next();
}

function entry(item) {
  item.state_ = make("span", { className: "state" });
  item.show = make("button", { type: "button", textContent: "Show", hidden: true });
  item.show.setAttribute("aria-label", `Show ${item.name}`);
  item.stop = make("button", { type: "button", textContent: "Cancel" });
  item.stop.setAttribute("aria-label", `Cancel ${item.name}`);
  item.show.addEventListener("click", () => { show(item); at("look-heading").scrollIntoView({ block: "start" }); });
  item.stop.addEventListener("click", () => cancel(item));
  item.row = make("li", {}, make("span", {}, make("span", { className: "name", textContent: item.name }), item.state_),
    make("span", { className: "row" }, item.show, item.stop));
  update(item);
  return item.row;
}

function update(item, state = item.state) {
  item.state = state;
  const busy = BUSY.includes(state);
  const parts = [STATES[state]];
  if (state === "failed") parts.push(`: ${item.error}`);
  if (state === "done") {
    parts[0] = item.original ? `${bytes(item.original.size)} → ${bytes(item.thumbnail.size)}` : bytes(item.thumbnail.size);
  }
  if (state === "down" || state === "up") parts.push(" ", make("progress", { ariaLabel: `${item.name}: ${STATES[state]}` }));
  item.state_.replaceChildren(...parts);
  item.row.classList.toggle("failed", state === "failed");
  item.stop.hidden = !busy;
  item.show.hidden = !item.restored;
  at("cancel-all").hidden = !items.some((other) => BUSY.includes(other.state));
  at("download-all").hidden = items.length < 2;
  at("download-all").disabled = !items.some((other) => other.restored);
  const over = items.filter((other) => !BUSY.includes(other.state)).length;
  at("queue-heading").textContent = items.length > 1 ? `Pictures (${number(over)} of ${number(items.length)})` : "Pictures";
}

function cancel(item) {
  if (!BUSY.includes(item.state)) return;
  item.abort.abort();
  update(item, "cancelled");
  at("queue").querySelector("button:not([hidden])")?.focus({ preventScroll: true });
}

function next() {
  while (running < AT_ONCE) {
    const item = items.find(({ state }) => state === "waiting");
    if (!item) return;
    running++;
    update(item, item.thumbnail ? "up" : "down");
    work(item).catch((error) => {
      if (item.state === "cancelled") return;
      item.error = error instanceof Refused ? error.message : String(error);
      update(item, "failed");
      say(`${item.name}: ${item.error}`);
    }).finally(() => {
      running--;
      next();
    });
  }
}

async function work(item) {
  const { signal } = item.abort;
  if (!item.thumbnail) {
    const query = new URLSearchParams({ model: item.model, format: item.format });
    const response = await ask(`/v1/thumbnails?${query}`,
      { body: item.original, signal, waiting: () => update(item, "queued") });
    item.thumbnail = await response.blob();
    item.model = response.headers.get("FaithEIR-Model");
    item.note = response.headers.get("FaithEIR-Warning");
    update(item, "up");
  }
  await restore(item, signal, () => update(item, "queued"));
  update(item, "done");
  say(`${item.name} is done.`);
  if (shown) return;
  await show(item);
  at("look-heading").scrollIntoView();
}

const here = () => !at("here-control").hidden && at("here").checked;

/** Make the picture of the item's thumbnail, at its fidelity. */
async function restore(item, signal, waiting) {
  if (!here()) await restoreThere(item, signal, waiting, "this server");
  else {
    try {
      await restoreHere(item, signal);
    } catch (error) {
      if (signal.aborted) throw error;
      await restoreThere(item, signal, waiting, `this server, since this browser did not: ${error.message ?? error}`);
    }
  }
  item.urls.delete("restored");
  item.values = null;
  if (!item.original) return;
  const restored = item.restored;
  measure(item.original, restored).then((values) => {
    if (item.restored !== restored) return;
    item.values = values;
    if (shown === item) facts(item);
  });
}

/** By the visitor's own processor: nothing is sent. */
async function restoreHere(item, signal) {
  const { restore: compute } = await import("/browser/faitheir-img.js");
  const { picture, report } = await compute(item.thumbnail, {
    model: item.model ?? at("model").value,
    fidelity: item.fidelity,
    signal,
    onOffer: ({ bytes: count }) => {
      say(`Fetching the model, ${bytes(count)}…`);
      return true;
    },
  });
  const { width, height, model, runtime: { device, threads } } = report;
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d");
  context.putImageData(picture, 0, 0);
  if (item.picture === "jpg") {  // which has no transparency
    context.globalCompositeOperation = "destination-over";
    context.fillStyle = "white";
    context.fillRect(0, 0, width, height);
  }
  const type = { jpg: "image/jpeg", png: "image/png", webp: "image/webp" }[item.picture];
  item.restored = await canvas.convertToBlob({ type, quality: 0.95 });
  item.warning = null;
  item.restorer = model;
  item.size = [width, height];
  item.by = device === "webgpu" ? "this browser, by WebGPU"
    : `this browser, by WebAssembly with ${threads === 1 ? "one thread" : `${number(threads)} threads`}`;
}

/** `by`: what is said of who restored it. */
async function restoreThere(item, signal, waiting, by) {
  if (item.model === undefined) {
    // Whose thumbnail it is, the file says; where it says nothing, the page does.
    const said = await describe(item.thumbnail, signal);
    item.model = said.made_by ? null : at("model").value;
  }
  const query = new URLSearchParams({ format: item.picture });
  if (item.model) query.set("model", item.model);
  if (item.fidelity) query.set("fidelity", item.fidelity);
  const response = await ask(`/v1/pictures?${query}`, { body: item.thumbnail, signal, waiting });
  item.warning = response.headers.get("FaithEIR-Warning");
  item.restorer = response.headers.get("FaithEIR-Model");
  item.size = response.headers.get("FaithEIR-Size").split("x").map(Number);
  item.restored = await response.blob();
  item.by = by;
}

at("cancel-all").addEventListener("click", () => items.forEach(cancel));

const stem = (item) => item.name.replace(/\.thumb\.\w+$|\.\w+$/, "");
const thumbnailName = (item) => `${stem(item)}.thumb.${EXTENSIONS[item.thumbnail.type] ?? "png"}`;
const restoredName = (item) => `${stem(item)}.restored.${EXTENSIONS[item.restored.type]}`;

function save(blob, name) {
  const link = make("a", { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}

at("download-all").addEventListener("click", async () => {
  const files = items.filter((item) => item.restored).flatMap((item) => [
    { name: thumbnailName(item), blob: item.thumbnail }, { name: restoredName(item), blob: item.restored },
  ]);
  save(await zip(files), "faitheir.zip");
});

// Looking at one.

const stage = new Stage(at("panes"), () => {
  const fitting = stage.fitting();
  return [fitting, Math.max(16, 2 * fitting)];
}, () => {
  at("where").textContent = shown ? new Intl.NumberFormat(undefined, { style: "percent" }).format(stage.zoom) : "";
});
stage.split = 0.5;
stage.refits = true;

function address(item, key, blob) {
  if (!item.urls.has(key)) item.urls.set(key, URL.createObjectURL(blob));
  return item.urls.get(key);
}

/** Whether the browser itself can show a file: it has no TIFF, and nothing has every camera's format. */
async function shows(url) {
  const image = make("img", { src: url });
  return image.decode().then(() => [image.naturalWidth, image.naturalHeight], () => null);
}

async function show(item) {
  const fresh = shown !== item;
  shown = item;
  for (const other of items) other.row.classList.toggle("chosen", other === item);
  item.small ??= await shows(address(item, "thumbnail", item.thumbnail));
  item.seen ??= item.original ? await shows(address(item, "original", item.original)) : null;
  if (shown !== item) return;
  at("look").hidden = false;
  at("look-heading").textContent = item.name;
  at("fidelity").value = item.fidelity;
  panes(item);
  if (fresh) {
    stage.split = 0.5;
    stage.zoom = 0;
    stage.place();
  }
  facts(item);
}

function panes(item) {
  const scale = models.find(({ name }) => name === item.restorer)?.scale ?? 16;
  const [width, height] = item.size;
  const whole = { left: 0, top: 0, width, height };
  const small = item.small && { source: address(item, "thumbnail", item.thumbnail), alt: `The thumbnail of ${item.name}, enlarged`,
    left: 0, top: 0, width: item.small[0] * scale, height: item.small[1] * scale, grain: scale };
  const original = item.seen && { ...whole, source: address(item, "original", item.original), alt: `${item.name}, the original` };
  const restored = { ...whole, source: address(item, "restored", item.restored), alt: `${item.name}, restored` };
  const below = original ?? small;
  const figures = [];
  const all = [];
  const figure = (pane, ...caption) => {
    all.push(pane);
    figures.push(make("figure", {}, pane.view, make("figcaption", {}, ...caption)));
  };
  const side = (text) => make("strong", { textContent: text });
  const name = original ? "Original" : "Thumbnail";
  figure(below ? new Pane(below, restored, `Divider between the ${name.toLowerCase()}, on its left, and the restored picture`)
    : new Pane(restored), make("span", { className: "sides" }, side(below ? `◀ ${name}` : ""), side("Restored ▶")));
  if (original && small) figure(new Pane(small), side("Thumbnail, enlarged"), ` ${bytes(item.thumbnail.size)}`);
  for (const rival of item.rivals) {
    const title = { bicubic: "Bicubic", webp: "WebP", avif: "AVIF" }[rival.system] ?? rival.system;
    if (rival.problem) {
      figures.push(make("figure", {}, make("figcaption", {}, side(title), ` ${rival.problem.detail}`)));
      continue;
    }
    const layer = { ...whole, source: address(item, rival.system, rival.blob), alt: `${item.name} as ${title} gives it` };
    figure(new Pane(layer), side(title), ` ${bytes(rival.bytes)}, ${decibels(rival.psnr ?? Infinity)}, SSIM ${number(rival.ssim ?? NaN, 3)}`);
  }
  at("panes").style.setProperty("--aspect", Math.min(3, Math.max(0.5, width / height)));
  at("panes").replaceChildren(...figures);
  stage.show(all, [width, height]);
}

function facts(item) {
  const rows = [];
  at("gain").hidden = !item.original;
  if (item.original) {
    const [large, small] = [item.original.size, item.thumbnail.size];
    const ratio = Math.max(large / small, small / large);
    const [gain, from] = at("gain").children;
    gain.textContent = `${number(ratio, ratio < 10 ? 1 : 0)}× ${large >= small ? "fewer" : "more"} bytes`;
    from.textContent = `${bytes(large)} → ${bytes(small)}`;
    rows.push(["Original", `${bytes(large)}, ${pixels(item.size)}`]);
    rows.push(["Thumbnail", `${bytes(small)}, ${item.small ? pixels(item.small) : ""}`]);
    rows.push(["Bits per pixel", number((8 * item.thumbnail.size) / (item.size[0] * item.size[1]), 4)]);
    const { psnr, ssim, error } = item.values ?? {};
    const wait = item.values ? "not available" : "…";
    rows.push(["PSNR", psnr === undefined ? wait : decibels(psnr)]);
    rows.push(["SSIM", ssim === undefined || Number.isNaN(ssim) ? wait : number(ssim, 4)]);
    if (error) rows.push(["", "This browser cannot show the original, so nothing is measured."]);
  } else {
    rows.push(["Thumbnail", `${bytes(item.thumbnail.size)}, ${item.small ? pixels(item.small) : ""}`]);
    rows.push(["Restored", pixels(item.size)]);
  }
  rows.push(["Model", item.restorer]);
  if (!at("here-control").hidden) rows.push(["Restored by", item.by]);
  if (item.note) rows.push(["Note", item.note]);
  if (item.warning) rows.push(["Caution", item.warning]);
  at("facts").replaceChildren(...rows.flatMap(([name, value]) => [make("dt", { textContent: name }), make("dd", { textContent: value })]));
  at("fidelity-value").textContent = number(item.fidelity, 2);
  at("fidelity-control").hidden = !models.find(({ name }) => name === item.restorer)?.fidelity;
  const small = at("thumbnail");
  small.src = address(item, "thumbnail", item.thumbnail);
  for (const [id, key, blob, name] of [["download-thumbnail", "thumbnail", item.thumbnail, thumbnailName(item)],
    ["download-picture", "restored", item.restored, restoredName(item)]]) {
    Object.assign(at(id), { href: address(item, key, blob), download: name });
  }
  at("compare").hidden = at("compare-hint").hidden = !item.original || item.rivals.length > 0;
  offerAgain();
}

/** What was made already stays as it is; with other settings it is made once more, beside it. */
function offerAgain() {
  const changed = [["model", "model"], ["thumbnail-format", "format"], ["picture-format", "picture"]].some(
    ([id, key]) => shown && at(id).value !== shown[key]);
  at("again").hidden = !shown?.original || !changed;
  at("again").textContent = shown ? `Make ${shown.name} again` : "";
}
for (const id of ["model", "thumbnail-format", "picture-format"]) at(id).addEventListener("change", offerAgain);
at("again").addEventListener("click", () => {
  const file = shown.original;
  shown = null;  // the new one is shown once it is there
  at("again").hidden = true;
  add([file], "photograph");
});

let turning = null;
/** Restore what is shown once more, with the settings of now. */
function restoreAgain() {
  const item = shown;
  if (!item) return;
  item.fidelity = Number(at("fidelity").value);
  at("fidelity-value").textContent = number(item.fidelity, 2);
  turning?.abort();
  turning = new AbortController();
  const { signal } = turning;
  sleep(0.3, signal).then(async () => {
    say("Restoring again…");
    const old = item.urls.get("restored");
    await restore(item, signal, () => say("The server has much to do; waiting…"));
    if (shown === item) await show(item);
    URL.revokeObjectURL(old);
    say(`Restored at fidelity ${number(item.fidelity, 2)}.`);
  }).catch((error) => { if (!signal.aborted) say(error.message); });
}
at("fidelity").addEventListener("input", restoreAgain);
at("here").addEventListener("change", restoreAgain);

at("compare").addEventListener("click", async () => {
  const item = shown;
  at("compare").disabled = true;
  say("Searching for the best that each gives in as many bytes…");
  try {
    const query = new URLSearchParams({ bytes: Math.max(100, item.thumbnail.size), model: item.restorer });
    const response = await ask(`/v1/comparisons?${query}`, { body: item.original });
    for await (const line of lines(response)) {
      if (line.problem && !line.system) throw new Refused(line.problem.detail);
      item.rivals.push(line.problem ? line : { ...line, blob: decoded(line), data: null });
      if (shown === item) panes(item);
    }
    say("");
  } catch (error) {
    item.rivals = [];
    say(error.message);
  } finally {
    at("compare").disabled = false;
    if (shown === item) facts(item);
  }
});

at("out").addEventListener("click", () => stage.zoomTo(stage.zoom / Math.SQRT2));
at("in").addEventListener("click", () => stage.zoomTo(stage.zoom * Math.SQRT2));
at("fit").addEventListener("click", () => stage.zoomTo(0));
fullScreen(at("stage"), at("full"), (on) => {
  at("full").textContent = on ? "Leave full screen" : "Full screen";
  stage.zoomTo(0);
});

// Choosing.

for (const button of document.querySelectorAll("[data-opens]")) {
  button.addEventListener("click", () => at(button.dataset.opens).click());
}
for (const [id, kind] of [["photographs", "photograph"], ["camera", "photograph"], ["thumbnails", "thumbnail"]]) {
  at(id).addEventListener("change", () => {
    add([...at(id).files], kind);
    at(id).value = "";
  });
}
at("example").addEventListener("click", async () => {
  try {
    const response = await ask("/assets/example.jpg");
    add([new File([await response.blob()], "example.jpg", { type: "image/jpeg" })], "photograph");
  } catch (error) {
    say(error.message);
  }
});
document.addEventListener("paste", (event) => {
  const files = [...event.clipboardData.files].filter(({ type }) => type.startsWith("image/"));
  if (!files.length) return;
  event.preventDefault();
  add(files, null);
});
for (const type of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(type, (event) => {
    if (!event.dataTransfer?.types.includes("Files")) return;
    event.preventDefault();
    const over = event.target.closest?.(".drop");
    for (const drop of document.querySelectorAll(".drop")) {
      drop.classList.toggle("over", type === "dragover" && drop === over);
    }
    if (type === "drop") {
      const kind = { "drop-photographs": "photograph", "drop-thumbnails": "thumbnail" }[over?.id] ?? null;
      add([...event.dataTransfer.files], kind);
    }
  });
}

start();

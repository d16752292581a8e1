// slider.js stands before this, in the same module.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  if (!data.pictures.length) return;
  const at = (id) => document.getElementById(id);
  const make = (name, properties = {}, ...children) => {
    const element = Object.assign(document.createElement(name), properties);
    element.append(...children);
    return element;
  };
  const number = (value) => (value === "inf" ? Infinity : value === "-inf" ? -Infinity : value);

  const metrics = Object.fromEntries(data.metrics.map((metric) => [metric.key, metric]));
  const text = (key, value) => {
    const metric = metrics[key];
    const digits = Number.isFinite(value) ? value.toFixed(metric.digits) : value > 0 ? "∞" : "-∞";
    // "Bytes 1815" says its unit already.
    return metric.unit && !metric.label.toLowerCase().includes(metric.unit) ? `${digits} ${metric.unit}` : digits;
  };
  const valueOf = (picture, system, key) => number(picture.values[system]?.[key]);

  // What can be shown of a picture: "original", "thumbnail-3", "restored-3", where 3 is the number of a system.
  const choices = [{ key: "original", label: "original", on: true }];
  const thumbnails = data.systems.map((_, i) => i).filter((i) => data.pictures.some((p) => p.thumbnails[i]));
  thumbnails.forEach((i, nth) =>
    choices.push({ key: `thumbnail-${i}`, label: `thumbnail of ${data.systems[i]}`, on: nth === 0 }));
  data.systems.forEach((name, i) => choices.push({ key: `restored-${i}`, label: name, on: true }));

  let picture = null;   // of data.pictures
  let ordered = [];     // data.pictures as they are listed
  const range = at("zoom");
  const stage = new Stage(at("panels"), () => [2 ** range.min, 2 ** range.max], placed);

  /** Where an image lies, in pixels of the picture: it may reach beyond the right and bottom edges. */
  function specOf(key) {
    const [kind, system] = key.split("-");
    const [left, top, width, height] = picture.window;
    if (kind === "original") return { source: picture.original, left, top, width, height };
    if (kind === "restored") {
      const source = picture.restored[system];
      return source ? { source, left, top, width, height } : { why: picture.notes[system] ?? "not there" };
    }
    const thumbnail = picture.thumbnails[system];
    if (!thumbnail) return { why: "no thumbnail is stored" };
    return { source: thumbnail.source, left: 0, top: 0, width: thumbnail.covers[0], height: thumbnail.covers[1] };
  }

  function caption(choice) {
    const [kind, system] = choice.key.split("-");
    const lines = [make("strong", { textContent: choice.label })];
    // Times are of the machine, not of the picture: they are in the table only.
    const values = (some) => data.metrics
      .filter(({ key }) => !key.startsWith("seconds_") && key.startsWith("thumbnail_") === some)
      .filter(({ key }) => valueOf(picture, system, key) !== undefined)
      .map(({ key, label }) => `${label} ${text(key, valueOf(picture, system, key))}`);
    if (kind === "original") lines.push(`${picture.width} × ${picture.height} pixels`);
    if (kind === "thumbnail" && picture.thumbnails[system]) {
      const [width, height] = picture.thumbnails[system].size;
      lines.push([`${width} × ${height} pixels`, ...values(true)].join(", "));
    }
    if (kind === "restored") lines.push(values(false).join(", "));
    return make("figcaption", {}, ...lines);
  }

  function fill() {
    const on = choices.filter((choice) => at(`show-${choice.key}`).checked);
    const original = { ...specOf("original"), alt: "" };
    const panes = [];
    at("panels").replaceChildren(...on.map((choice) => {
      const spec = specOf(choice.key);
      let view;
      if (spec.source) {
        const layer = { ...spec, alt: `${choice.label}: ${picture.name}` };
        const pane = choice.key === "original" ? new Pane(layer) :
          new Pane(original, layer, `Divider between the original, on its left, and ${choice.label}`);
        panes.push(pane);
        view = pane.view;
      } else {
        view = make("div", { className: "view" }, make("p", { textContent: spec.why }));
      }
      return make("figure", {}, view, caption(choice));
    }));
    stage.show(panes, [picture.width, picture.height], picture.window);
  }

  /** The part that is shown, in the small picture and in words. */
  function placed() {
    const { x, y, zoom } = stage;
    const [left, top, width, height] = picture.window;
    const [w, h] = stage.extent();
    const box = (element, l, t, r, b) => Object.assign(element.style, {
      left: `${(100 * l) / picture.width}%`, top: `${(100 * t) / picture.height}%`,
      width: `${(100 * (r - l)) / picture.width}%`, height: `${(100 * (b - t)) / picture.height}%`,
    });
    const edges = [Math.max(left, x - w / 2), Math.max(top, y - h / 2),
      Math.min(left + width, x + w / 2), Math.min(top + height, y + h / 2)];
    box(at("region"), ...edges);
    box(at("window"), left, top, left + width, top + height);
    range.value = Math.log2(zoom);
    range.setAttribute("aria-valuetext", `${+zoom.toFixed(2)} times`);
    const [l, t, r, b] = edges.map(Math.round);
    at("where").textContent =
      `Shown: ${l}–${r} of ${picture.width} across, ${t}–${b} of ${picture.height} down, zoom ${+zoom.toFixed(2)}`;
  }

  function choose(chosen) {
    picture = chosen;
    at("picture").selectedIndex = ordered.indexOf(picture);
    at("whole").src = picture.overview;
    at("whole").alt = `all of ${picture.name}`;
    at("window").hidden = picture.window[2] === picture.width && picture.window[3] === picture.height;
    [stage.x, stage.y] = picture.start;
    fill();
  }

  function sort() {
    const order = at("order").value, key = at("metric").value, system = at("system").value;
    at("metric").disabled = at("system").disabled = order === "name";
    const sign = (order === "worst") === (metrics[key]?.direction === "higher") ? 1 : -1;
    const rank = (item) => valueOf(item, system, key);
    ordered = [...data.pictures].sort((a, b) => {
      const [u, v] = [rank(a), rank(b)];
      if (order !== "name" && u !== v) {
        if (u === undefined) return 1;
        if (v === undefined) return -1;
        return sign * (u < v ? -1 : 1);
      }
      return a.name < b.name ? -1 : 1;
    });
    at("picture").replaceChildren(...ordered.map((item) => {
      const value = order === "name" ? undefined : rank(item);
      return make("option", { textContent: value === undefined ? item.name : `${text(key, value)}  ${item.name}` });
    }));
    choose(ordered[0]);
  }

  const step = (by) => choose(ordered[(ordered.indexOf(picture) + by + ordered.length) % ordered.length]);

  function onOverview(event) {
    if (event.type === "pointerdown") at("overview").setPointerCapture(event.pointerId);
    else if (!at("overview").hasPointerCapture(event.pointerId)) return;
    const box = at("overview").getBoundingClientRect();
    stage.x = ((event.clientX - box.left) / box.width) * picture.width;
    stage.y = ((event.clientY - box.top) / box.height) * picture.height;
    stage.place();
  }

  at("shown").append(...choices.map((choice) => {
    const box = make("input", { type: "checkbox", id: `show-${choice.key}`, checked: choice.on });
    box.addEventListener("change", fill);
    return make("label", { className: "check" }, box, choice.label);
  }));
  const option = (value, label, chosen) => make("option", { value, textContent: label, selected: value === chosen });
  const ranked = data.metrics.filter((metric) => metric.direction);
  at("metric").append(...ranked.map((m) => option(m.key, m.label, data.sort.metric)));
  at("system").append(...data.systems.map((name, i) => option(String(i), name, String(data.sort.system))));
  if (!ranked.length) {
    at("order").value = "name";
    at("order").disabled = true;
  }
  for (const id of ["order", "metric", "system"]) at(id).addEventListener("change", sort);
  at("picture").addEventListener("change", () => choose(ordered[at("picture").selectedIndex]));
  at("previous").addEventListener("click", () => step(-1));
  at("next").addEventListener("click", () => step(1));
  range.addEventListener("input", () => stage.zoomTo(2 ** range.value));
  at("out").addEventListener("click", () => stage.zoomTo(stage.zoom / Math.SQRT2));
  at("in").addEventListener("click", () => stage.zoomTo(stage.zoom * Math.SQRT2));
  at("flip").addEventListener("change", () => stage.divide(at("flip").checked ? 1 : 0));
  at("overview").addEventListener("keydown", (event) => stage.onKey(event));
  for (const type of ["pointerdown", "pointermove"]) at("overview").addEventListener(type, onOverview);
  at("browser").hidden = false;
  stage.zoom = 2;
  sort();
})();

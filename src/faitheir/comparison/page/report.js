"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  if (!data.pictures.length) return;
  const at = (id) => document.getElementById(id);
  const make = (name, properties = {}, ...children) => {
    const element = Object.assign(document.createElement(name), properties);
    element.append(...children);
    return element;
  };
  const clamp = (value, low, high) => (low > high ? (low + high) / 2 : Math.min(Math.max(value, low), high));
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
  let panels = [];      // {view, image, spec, original}
  let x = 0, y = 0;     // centre of the part shown, in pixels of the picture
  let zoom = 2;         // screen pixels for each of the picture's

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
    const original = specOf("original");
    panels = [];
    at("panels").replaceChildren(...on.map((choice) => {
      const spec = specOf(choice.key);
      const view = make("div", { className: "view" });
      const panel = { view, spec, image: null, original: null };
      if (spec.source) {
        panel.image = make("img", { src: spec.source, alt: `${choice.label}: ${picture.name}`, draggable: false });
        panel.original = make("img", { src: original.source, alt: "", draggable: false, hidden: true });
        view.append(panel.image, panel.original);
      } else {
        view.append(make("p", { textContent: spec.why }));
      }
      panels.push(panel);
      return make("figure", {}, view, caption(choice));
    }));
    flip();
    place();
  }

  function flip() {
    const flipped = at("flip").checked;
    for (const panel of panels) {
      if (!panel.image) continue;
      panel.image.hidden = flipped;
      panel.original.hidden = !flipped;
    }
  }

  /** Width and height of the part shown, in pixels of the picture. */
  function extent() {
    const view = panels[0]?.view;
    return view ? [view.clientWidth / zoom, view.clientHeight / zoom] : [240 / zoom, 240 / zoom];
  }

  function place() {
    const [left, top, width, height] = picture.window;
    const [w, h] = extent();
    x = clamp(x, left + w / 2, left + width - w / 2);
    y = clamp(y, top + h / 2, top + height - h / 2);
    const put = (image, spec) => {
      const beyond = [1 - (picture.width - spec.left) / spec.width, 1 - (picture.height - spec.top) / spec.height];
      const [right, bottom] = beyond.map((part) => `${100 * Math.max(0, part)}%`);
      const [dx, dy] = [(spec.left - x + w / 2) * zoom, (spec.top - y + h / 2) * zoom];
      Object.assign(image.style, {
        width: `${spec.width * zoom}px`, height: `${spec.height * zoom}px`,
        transform: `translate(${Math.round(dx)}px, ${Math.round(dy)}px)`, clipPath: `inset(0 ${right} ${bottom} 0)`,
      });
    };
    const original = specOf("original");
    for (const panel of panels) {
      if (!panel.image) continue;
      put(panel.image, panel.spec);
      put(panel.original, original);
    }
    const box = (element, l, t, r, b) => Object.assign(element.style, {
      left: `${(100 * l) / picture.width}%`, top: `${(100 * t) / picture.height}%`,
      width: `${(100 * (r - l)) / picture.width}%`, height: `${(100 * (b - t)) / picture.height}%`,
    });
    const edges = [Math.max(left, x - w / 2), Math.max(top, y - h / 2),
      Math.min(left + width, x + w / 2), Math.min(top + height, y + h / 2)];
    box(at("region"), ...edges);
    box(at("window"), left, top, left + width, top + height);
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
    [x, y] = picture.start;
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

  function setZoom(exponent) {
    const range = at("zoom");
    range.value = clamp(exponent, +range.min, +range.max);
    zoom = 2 ** +range.value;
    range.setAttribute("aria-valuetext", `${+zoom.toFixed(2)} times`);
    if (picture) place();
  }

  function onKey(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const [w, h] = extent();
    const part = event.shiftKey ? 1 : 1 / 8;
    const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    if (event.key in moves) {
      const [dx, dy] = moves[event.key];
      x += dx * Math.max(1, Math.round(w * part));
      y += dy * Math.max(1, Math.round(h * part));
      place();
    } else if (event.key === "+" || event.key === "=") {
      setZoom(+at("zoom").value + 0.5);
    } else if (event.key === "-" || event.key === "_") {
      setZoom(+at("zoom").value - 0.5);
    } else {
      return;
    }
    event.preventDefault();
  }

  function onOverview(event) {
    if (event.type === "pointerdown") at("overview").setPointerCapture(event.pointerId);
    else if (!at("overview").hasPointerCapture(event.pointerId)) return;
    const box = at("overview").getBoundingClientRect();
    x = ((event.clientX - box.left) / box.width) * picture.width;
    y = ((event.clientY - box.top) / box.height) * picture.height;
    place();
  }

  let grip = null;  // where a panel was taken hold of
  function onPanel(event) {
    const view = event.target.closest(".view");
    if (event.type === "pointerdown" && view && event.pointerType !== "touch" && event.button === 0) {
      grip = { id: event.pointerId, view, left: event.clientX, top: event.clientY, x, y };
      view.setPointerCapture(event.pointerId);
      view.classList.add("dragged");
    } else if (grip && event.pointerId === grip.id) {
      if (event.type === "pointermove") {
        x = grip.x - (event.clientX - grip.left) / zoom;
        y = grip.y - (event.clientY - grip.top) / zoom;
        place();
      } else if (event.type !== "pointerdown") {
        grip.view.classList.remove("dragged");
        grip = null;
      }
    }
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
  at("zoom").addEventListener("input", () => setZoom(+at("zoom").value));
  at("out").addEventListener("click", () => setZoom(+at("zoom").value - 0.5));
  at("in").addEventListener("click", () => setZoom(+at("zoom").value + 0.5));
  at("flip").addEventListener("change", flip);
  for (const id of ["overview", "panels"]) at(id).addEventListener("keydown", onKey);
  for (const type of ["pointerdown", "pointermove"]) at("overview").addEventListener(type, onOverview);
  for (const type of ["pointerdown", "pointermove", "pointerup", "pointercancel"]) {
    at("panels").addEventListener(type, onPanel);
  }
  at("browser").hidden = false;
  setZoom(1);
  sort();
  new ResizeObserver(() => place()).observe(at("panels"));
})();

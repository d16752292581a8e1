/**
 * Pictures looked at through panes that move in step, two over each other with a divider between.
 *
 * A Stage knows which part of the picture is shown, and how much of the upper picture; its Panes show that. The
 * report and the server's page both use this file: it is a module there, and put into the page here.
 */

export const clamp = (value, low, high) => (low > high ? (low + high) / 2 : Math.min(Math.max(value, low), high));

export class Stage {
  x = 0;        // centre of the part shown, in pixels of the picture
  y = 0;
  zoom = 1;     // screen pixels for each of the picture's
  split = 0;    // how much of a pane, from the left, shows the picture below
  bounds = [0, 0, 1, 1];  // left, top, width, height of what may be shown
  size = [1, 1];          // of the whole picture
  panes = [];
  refits = false;         // whether all of the picture stays seen when the panes change their size
  #pointers = new Map();
  #grip = null;
  #whole = false;         // as of the last placing

  /** `area`: the element with the panes. `limits`: () => [least, most] zoom. `onplace`: called after each change. */
  constructor(area, limits, onplace = () => {}) {
    Object.assign(this, { area, limits, onplace });
    for (const type of ["pointerdown", "pointermove", "pointerup", "pointercancel"]) {
      area.addEventListener(type, (event) => this.#onPointer(event));
    }
    area.addEventListener("keydown", (event) => this.onKey(event));
    area.addEventListener("wheel", (event) => this.#onWheel(event), { passive: false });
    new ResizeObserver(() => {
      if (this.#whole && this.refits) this.zoom = this.fitting();
      this.place();
    }).observe(area);
  }

  /** Width and height of the part shown, in pixels of the picture. */
  extent() {
    const view = this.panes[0]?.view;
    return [(view?.clientWidth || 240) / this.zoom, (view?.clientHeight || 240) / this.zoom];
  }

  /** The zoom at which all of the picture is seen. */
  fitting() {
    const view = this.panes[0]?.view;
    return Math.min((view?.clientWidth || 240) / this.bounds[2], (view?.clientHeight || 240) / this.bounds[3]);
  }

  /** Show these panes, of a picture of this size. */
  show(panes, size, bounds = [0, 0, ...size]) {
    Object.assign(this, { panes, size, bounds });
    this.place();
  }

  fit() {
    this.zoomTo(this.fitting());
  }

  /** `about`: the point, in screen pixels from a pane's middle, that stays where it is. */
  zoomTo(zoom, about = [0, 0]) {
    const [x, y] = about.map((value, axis) => [this.x, this.y][axis] + value / this.zoom);
    this.zoom = clamp(zoom, ...this.limits());
    this.x = x - about[0] / this.zoom;
    this.y = y - about[1] / this.zoom;
    this.place();
  }

  moveBy(dx, dy) {
    this.x += dx;
    this.y += dy;
    this.place();
  }

  /** Show the picture below in this share of each pane, from 0 to 1. */
  divide(split) {
    this.split = clamp(split, 0, 1);
    for (const pane of this.panes) pane.divide(this.split);
  }

  /** Whether all of the picture is seen: there is nothing to move then, and a drag moves the divider. */
  get whole() {
    return this.zoom <= this.fitting() * 1.001;
  }

  place() {
    if (!this.panes.length) return;
    const [least, most] = this.limits();
    this.zoom = clamp(this.zoom, least, most);
    const [left, top, width, height] = this.bounds;
    const [w, h] = this.extent();
    this.x = clamp(this.x, left + w / 2, left + width - w / 2);
    this.y = clamp(this.y, top + h / 2, top + height - h / 2);
    for (const pane of this.panes) {
      pane.place(this);
      pane.divide(this.split);
    }
    this.#whole = this.whole;
    this.area.classList.toggle("whole", this.#whole);
    this.onplace();
  }

  onKey(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const onDivider = event.target.classList?.contains("divider");
    if (event.target !== this.area && !onDivider && !event.target.classList?.contains("moves")) return;
    const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    const sides = { Home: 0, End: 1, PageUp: this.split + 0.1, PageDown: this.split - 0.1 };
    if (onDivider && step?.[0]) this.divide(this.split + step[0] * (event.shiftKey ? 0.1 : 0.02));
    else if (onDivider && event.key in sides) this.divide(sides[event.key]);
    else if (step) {
      const part = event.shiftKey ? 1 : 1 / 8;
      this.moveBy(...this.extent().map((side, axis) => step[axis] * Math.max(1, Math.round(side * part))));
    } else if (event.key === "+" || event.key === "=") this.zoomTo(this.zoom * Math.SQRT2);
    else if (event.key === "-" || event.key === "_") this.zoomTo(this.zoom / Math.SQRT2);
    else if (event.key === "0") this.fit();
    else return;
    event.preventDefault();
  }

  /** A wheel scrolls the page unless what it turns over has the focus, or fills the screen. */
  #onWheel(event) {
    const view = event.target.closest(".view");
    const focused = this.area.contains(document.activeElement) || document.fullscreenElement?.contains(this.area);
    if (!view || !(focused || event.ctrlKey)) return;
    event.preventDefault();
    const lines = event.deltaMode === 1 ? 30 : 1;
    this.zoomTo(this.zoom * 2 ** (clamp(-event.deltaY * lines, -200, 200) / 200), this.#about(view, event));
  }

  #about(view, { clientX, clientY }) {
    const box = view.getBoundingClientRect();
    const scale = (this.panes[0]?.view.clientWidth || box.width) / box.width;
    return [(clientX - box.left - box.width / 2) * scale, (clientY - box.top - box.height / 2) * scale];
  }

  #onPointer(event) {
    const { type, pointerId: id } = event;
    const view = event.target.closest(".view");
    if (type === "pointerdown") {
      if (!view || event.button !== 0) return;
      const onDivider = event.target.closest(".divider") !== null;
      if (!onDivider && document.activeElement !== this.area && this.area.tabIndex >= 0) {
        this.area.focus({ preventScroll: true });
      }
      view.setPointerCapture(id);
      this.#pointers.set(id, event);
      const divides = onDivider || (this.whole && view.querySelector(".divider") !== null);
      this.#grip = { view, divides };
      view.classList.add("dragged");
      if (onDivider) event.target.closest(".divider").focus({ preventScroll: true });
      event.preventDefault();
      return;
    }
    const before = this.#pointers.get(id);
    if (!before || !this.#grip) return;
    const grip = this.#grip;
    if (type !== "pointermove") {
      this.#pointers.delete(id);
      if (!this.#pointers.size) {
        grip.view.classList.remove("dragged");
        this.#grip = null;
      }
      return;
    }
    const others = [...this.#pointers.values()].filter((other) => other.pointerId !== id);
    this.#pointers.set(id, event);
    if (others.length) {
      // Two fingers: what is between them stays between them.
      const spread = (a, b) => Math.hypot(a.clientX - b.clientX, a.clientY - b.clientY) || 1;
      const middle = (a, b) => ({ clientX: (a.clientX + b.clientX) / 2, clientY: (a.clientY + b.clientY) / 2 });
      const [was, is] = [middle(before, others[0]), middle(event, others[0])];
      this.moveBy((was.clientX - is.clientX) / this.zoom, (was.clientY - is.clientY) / this.zoom);
      this.zoomTo(this.zoom * spread(event, others[0]) / spread(before, others[0]), this.#about(grip.view, is));
    } else if (grip.divides) {
      const box = grip.view.getBoundingClientRect();
      this.divide((event.clientX - box.left) / box.width);
    } else {
      const zoom = this.zoom * (grip.view.clientWidth / this.panes[0].view.clientWidth);
      this.moveBy((before.clientX - event.clientX) / zoom, (before.clientY - event.clientY) / zoom);
    }
  }
}

/**
 * One picture, or two over each other. A layer is {source, alt, left, top, width, height} in the picture's pixels, and
 * `grain`, how many of these one of its own pixels covers, by default 1.
 */
export class Pane {
  #layers;
  #divider = null;

  /** `upper` may be null. `label`: of the divider, which is there where both are. */
  constructor(lower, upper = null, label = "") {
    this.view = document.createElement("div");
    this.view.className = "view";
    this.#layers = [lower, upper].filter(Boolean).map((layer) => {
      const holder = document.createElement("div");
      const image = Object.assign(document.createElement("img"), {
        src: layer.source, alt: layer.alt ?? "", draggable: false,
      });
      holder.className = "layer";
      holder.append(image);
      this.view.append(holder);
      return { ...layer, holder, image };
    });
    if (!upper) return;
    this.#divider = document.createElement("div");
    this.#divider.className = "divider";
    const attributes = { role: "slider", tabindex: 0, "aria-label": label, "aria-valuemin": 0, "aria-valuemax": 100 };
    for (const [name, value] of Object.entries(attributes)) this.#divider.setAttribute(name, value);
    this.view.append(this.#divider);
  }

  /** A pane that is smaller than the first shows the same part, smaller. */
  place({ x, y, size, ...stage }) {
    const zoom = stage.zoom * (this.view.clientWidth / (stage.panes[0].view.clientWidth || 1) || 1);
    const [w, h] = [this.view.clientWidth / zoom, this.view.clientHeight / zoom];
    for (const { image, left, top, width, height, grain = 1 } of this.#layers) {
      // A thumbnail's last pixels reach beyond the picture: that part is cut off.
      const [right, bottom] = [[size[0], left, width], [size[1], top, height]].map(
        ([side, start, length]) => `${100 * Math.max(0, 1 - (side - start) / length)}%`);
      const [dx, dy] = [(left - x + w / 2) * zoom, (top - y + h / 2) * zoom];
      image.classList.toggle("coarse", zoom * grain >= 2);
      Object.assign(image.style, {
        width: `${width * zoom}px`, height: `${height * zoom}px`,
        transform: `translate(${Math.round(dx)}px, ${Math.round(dy)}px)`, clipPath: `inset(0 ${right} ${bottom} 0)`,
      });
    }
  }

  divide(split) {
    if (!this.#divider) return;
    const [lower, upper] = this.#layers;
    const percent = Math.round(100 * split);
    lower.holder.hidden = split <= 0;
    upper.holder.hidden = split >= 1;
    upper.holder.style.clipPath = `inset(0 0 0 ${100 * split}%)`;
    this.#divider.style.left = `${100 * split}%`;
    this.#divider.setAttribute("aria-valuenow", percent);
    this.#divider.setAttribute("aria-valuetext", `${percent} %`);
  }
}

/** Have `button` show `element` on the whole screen and back; where the browser has no such view, over the page. */
export function fullScreen(element, button, onchange = () => {}) {
  const filled = () => document.fullscreenElement === element || element.classList.contains("filled");
  const changed = () => {
    button.setAttribute("aria-pressed", filled());
    onchange(filled());
  };
  const fill = (on) => {
    element.classList.toggle("filled", on);
    document.documentElement.classList.toggle("covered", on);
    changed();
  };
  button.addEventListener("click", () => {
    if (document.fullscreenElement === element) document.exitFullscreen();
    else if (element.classList.contains("filled")) fill(false);
    else if (element.requestFullscreen) element.requestFullscreen().catch(() => fill(true));
    else fill(true);
  });
  document.addEventListener("fullscreenchange", () => {
    changed();
    if (!document.fullscreenElement) button.focus({ preventScroll: true });
  });
  element.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && element.classList.contains("filled")) fill(false);
  });
}

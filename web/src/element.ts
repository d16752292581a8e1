/** `<faitheir-img src width height alt>`: a thumbnail that becomes the photograph. */

import type { Runtime } from "./engine.js";
import { asRestoreError, type Reason } from "./errors.js";
import type { ModelOffer, Report } from "./protocol.js";
import { stream, type Options } from "./restore.js";
import type { Rect, Region } from "./tiles.js";

/** What the element is doing, in its attribute `state`. */
export type State = "thumbnail" | "restoring" | "restored" | "fallback";

/** What its events carry in `detail`; they bubble, so that a page can listen in one place. */
export interface Events {
  /** Before a model is fetched: its size. `preventDefault` declines, and the thumbnail stays. */
  "faitheir-offer": ModelOffer;
  "faitheir-loading": { loaded: number; total: number };
  /** What computes, once for each runtime of the page; `fallbacks` says why it is not the fastest there is. */
  "faitheir-runtime": Runtime;
  "faitheir-progress": { done: number; tiles: number };
  "faitheir-restored": Report;
  /** Why the enlarged thumbnail stays. */
  "faitheir-fallback": { reason: Reason; message: string };
}

const SHEET = `
:host { display: inline-block; position: relative; max-width: 100%; overflow: hidden; vertical-align: bottom; }
:host([hidden]) { display: none; }
img, canvas, ::slotted(img) {
  position: absolute !important; inset: 0; display: block !important; width: 100% !important; height: 100% !important;
  max-width: none !important; margin: 0 !important;
}
.blurred, ::slotted(img) { filter: blur(var(--faitheir-blur, 4px)); }
canvas { opacity: 0; transition: opacity var(--faitheir-fade, 0.4s); }
canvas.shown { opacity: 1; }
.replaced { opacity: 0; }
@media (prefers-reduced-motion: reduce) { canvas { transition: none; } }
`;

/** The element's class, made when it is defined: there may be no `HTMLElement` where this module is read. */
function define(): CustomElementConstructor {
  const sheet = new CSSStyleSheet();
  sheet.replaceSync(SHEET);
  const steps = [0, 0.01, 0.25, 0.5, 0.75, 1];
  const watch = new IntersectionObserver(
    (entries) => entries.forEach((entry) => (entry.target as FaithEIRImage).seen(entry)),
    { threshold: steps },
  );

  class FaithEIRImage extends HTMLElement {
    static observedAttributes = ["src", "width", "height", "alt", "models", "precision", "fidelity", "device", "model"];

    /** What was done, once it is. */
    report: Report | undefined;
    private readonly own = new CSSStyleSheet();
    private readonly small = document.createElement("div");
    private readonly under = document.createElement("img");
    private readonly blurred = document.createElement("img");
    private canvas: HTMLCanvasElement | undefined;
    private control: AbortController | undefined;
    private see: ((visible: Rect) => void) | undefined;
    private visible: Rect | undefined;
    private transparent = false;

    constructor() {
      super();
      const root = this.attachShadow({ mode: "open" });
      root.adoptedStyleSheets = [sheet, this.own];
      // Blurring fades edges into the page; the same picture beneath keeps them.
      this.under.alt = "";
      this.under.loading = "lazy";
      this.under.setAttribute("aria-hidden", "true");
      this.blurred.className = "blurred";
      this.small.part.add("thumbnail");
      this.small.append(this.under, document.createElement("slot"));
      root.append(this.small);
    }

    connectedCallback(): void {
      if (!this.hasAttribute("state")) this.state = "thumbnail";
      this.show();
      watch.observe(this);
    }

    disconnectedCallback(): void {
      watch.unobserve(this);
      this.visible = undefined;
      this.cancel();
    }

    attributeChangedCallback(name: string, before: string | null, now: string | null): void {
      if (before === now || !this.isConnected) return;
      this.show();
      if (name === "width" || name === "height" || name === "alt") return;
      this.reset();
      if (this.visible) void this.restore();
    }

    get state(): State {
      return this.getAttribute("state") as State;
    }

    private set state(state: State) {
      this.setAttribute("state", state);
    }

    /** The address of the thumbnail: the attribute, or that of the `<img>` inside. */
    get src(): string | undefined {
      const address = this.getAttribute("src") ?? this.inner?.getAttribute("src");
      return address === null || address === undefined ? undefined : new URL(address, document.baseURI).href;
    }

    /** The restored picture, as far as it is there. */
    get picture(): HTMLCanvasElement | undefined {
      return this.canvas;
    }

    private get inner(): HTMLImageElement | null {
      return this.querySelector("img");
    }

    /** Shows the thumbnail, in the room that the picture will take. */
    private show(): void {
      const { src, inner } = this;
      const [width, height] = ["width", "height"].map((side) => Number(this.getAttribute(side) ?? inner?.getAttribute(side)));
      const size = width && height ? `width: ${width}px; aspect-ratio: ${width} / ${height}; height: auto;` : "";
      this.own.replaceSync(`:host { ${size} }`);
      for (const image of [this.under, this.blurred]) if (src && image.src !== src) image.src = src;
      if (inner) this.blurred.remove();
      else this.small.append(this.blurred);
      this.blurred.alt = this.getAttribute("alt") ?? "";
    }

    /** Called as it comes into view, moves there, and leaves. */
    seen(entry: IntersectionObserverEntry): void {
      const { boundingClientRect: all, intersectionRect: part } = entry;
      const now = entry.isIntersecting && all.width > 0 && all.height > 0;
      if (!now) {
        this.visible = undefined;
        this.cancel();
        return;
      }
      this.visible = {
        x: (part.x - all.x) / all.width,
        y: (part.y - all.y) / all.height,
        width: part.width / all.width,
        height: part.height / all.height,
      };
      this.see?.(this.visible);
      if (this.state === "thumbnail") void this.restore({ cachedOnly: savesData() });
    }

    /** Restores it now, whether or not it is in view; an element in view does so by itself. Never rejects. */
    async restore(options: Options = {}): Promise<void> {
      const { src } = this;
      if (!src || this.control || this.state === "restored") return;
      const control = new AbortController();
      this.control = control;
      this.state = "restoring";
      const attribute = (name: string): string | undefined => this.getAttribute(name) ?? undefined;
      const number = (name: string): number | undefined => (this.hasAttribute(name) ? Number(attribute(name)) : undefined);
      const given = {
        models: attribute("models"),
        model: attribute("model"),
        device: attribute("device"),
        precision: attribute("precision"),
        fidelity: number("fidelity"),
      };
      const { report, see } = stream(src, {
        ...(Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined)) as Options),
        ...options,
        signal: control.signal,
        ...(this.visible ? { visible: this.visible } : {}),
        onOffer: (offer) => this.emit("faitheir-offer", offer, true),
        onLoading: (progress) => this.emit("faitheir-loading", progress),
        onRuntime: (runtime) => this.emit("faitheir-runtime", runtime),
        onSize: (size) => this.begin(size),
        onTile: (regions, done, tiles) => {
          this.draw(regions);
          this.emit("faitheir-progress", { done, tiles });
        },
      });
      this.see = see;
      try {
        this.report = await report;
        if (this.control !== control) return;
        this.state = "restored";
        this.canvas!.classList.add("shown");
        this.small.classList.toggle("replaced", this.transparent);
        this.emit("faitheir-restored", this.report);
      } catch (error) {
        if (this.control !== control) return;
        const { reason, message } = asRestoreError(error);
        this.drop();
        this.state = reason === "cancelled" ? "thumbnail" : "fallback";
        if (reason !== "cancelled") this.emit("faitheir-fallback", { reason, message });
      } finally {
        if (this.control === control) this.control = this.see = undefined;
      }
    }

    private cancel(): void {
      if (!this.control) return;
      const { control } = this;
      this.control = this.see = undefined;
      control.abort();
      this.drop();
      this.state = "thumbnail";
    }

    /** Back to the thumbnail. */
    private reset(): void {
      this.cancel();
      this.drop();
      this.report = undefined;
      this.state = "thumbnail";
    }

    private drop(): void {
      this.canvas?.remove();
      this.canvas = undefined;
      this.small.classList.remove("replaced");
    }

    private begin({ width, height, opaque }: { width: number; height: number; opaque: boolean }): void {
      this.drop();
      const canvas = Object.assign(document.createElement("canvas"), { width, height });
      canvas.setAttribute("aria-hidden", "true");
      canvas.part.add("picture");
      // A transparent picture is shown when it is whole: through its half the thumbnail would be seen.
      canvas.classList.toggle("shown", opaque);
      this.transparent = !opaque;
      this.canvas = canvas;
      this.shadowRoot!.append(canvas);
    }

    private draw(regions: Region[]): void {
      const context = this.canvas?.getContext("2d");
      for (const { x, y, width, height, rgba } of regions) {
        context?.putImageData(new ImageData(rgba, width, height), x, y);
      }
    }

    private emit<K extends keyof Events>(name: K, detail: Events[K], cancelable = false): boolean {
      return this.dispatchEvent(new CustomEvent(name, { detail, bubbles: true, composed: true, cancelable }));
    }
  }
  return FaithEIRImage;
}

/** Whether the visitor, or the browser for them, asks for less data. */
function savesData(): boolean {
  const { connection } = navigator as { connection?: { saveData?: boolean } };
  return matchMedia("(prefers-reduced-data: reduce)").matches || connection?.saveData === true;
}

/** Defines the element, unless the page has one of that name. */
export function defineElement(name = "faitheir-img"): void {
  if (typeof customElements !== "undefined" && !customElements.get(name)) customElements.define(name, define());
}

/** A site on this machine, and a real Chromium that visits it. */

import { createServer, type Server } from "node:http";
import { createReadStream, existsSync, readFileSync, statSync } from "node:fs";
import type { AddressInfo } from "node:net";
import { extname, join, normalize } from "node:path";
import { chromium, type Browser, type Page } from "playwright-core";

const TYPES: Record<string, string> = {
  ".html": "text/html; charset=utf-8",
  ".js": "text/javascript",
  ".mjs": "text/javascript",
  ".wasm": "application/wasm",
  ".json": "application/json",
  ".png": "image/png",
  ".webp": "image/webp",
  ".jpg": "image/jpeg",
  ".avif": "image/avif",
  ".css": "text/css",
};

export interface Site {
  url: string;
  /** Paths that were asked for, in order. */
  asked: string[];
  /** Files made up by the test. */
  pages: Map<string, string>;
  /** What is answered in place of a file. */
  instead: Map<string, (body: Buffer) => Buffer | number>;
  close(): Promise<void>;
}

/** Serves a folder; `isolated`: with the headers that allow threads. */
export async function serve(folder: string, isolated = false): Promise<Site> {
  const asked: string[] = [];
  const pages = new Map<string, string>();
  const instead: Site["instead"] = new Map();
  const server: Server = createServer((request, response) => {
    const path = normalize(decodeURIComponent(new URL(request.url!, "http://x").pathname));
    asked.push(path);
    const headers: Record<string, string> = { "Cache-Control": "no-cache" };
    if (isolated) {
      headers["Cross-Origin-Opener-Policy"] = "same-origin";
      headers["Cross-Origin-Embedder-Policy"] = "require-corp";
    }
    const page = pages.get(path);
    if (page !== undefined) return void response.writeHead(200, { ...headers, "Content-Type": TYPES[extname(path)]! }).end(page);
    const file = join(folder, path.endsWith("/") ? `${path}index.html` : path);
    if (!existsSync(file) || !statSync(file).isFile()) return void response.writeHead(404, headers).end();
    headers["Content-Type"] = TYPES[extname(file)] ?? "application/octet-stream";
    const changed = instead.get(path)?.(readFileSync(file));
    if (typeof changed === "number") return void response.writeHead(changed, headers).end();
    if (changed) return void response.writeHead(200, headers).end(changed);
    response.writeHead(200, { ...headers, "Content-Length": String(statSync(file).size) });
    createReadStream(file).pipe(response);
  });
  await new Promise<void>((listening) => server.listen(0, "127.0.0.1", listening));
  const { port } = server.address() as AddressInfo;
  const close = (): Promise<void> =>
    new Promise((closed) => {
      server.closeAllConnections();
      server.close(() => closed());
    });
  return { url: `http://localhost:${port}`, asked, pages, instead, close };
}

/** Where Chromium is on this machine, if it is. */
export function findChromium(): string | undefined {
  const names = ["chromium", "chromium-browser", "google-chrome"];
  const folders = (process.env["PATH"] ?? "").split(":");
  return folders.flatMap((folder) => names.map((name) => join(folder, name))).find((path) => existsSync(path));
}

export async function launch(...more: string[]): Promise<Browser> {
  const flags = ["--no-sandbox", "--disable-quic", "--no-first-run", "--disable-background-networking"];
  return chromium.launch({
    executablePath: findChromium()!,
    args: [...flags, "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", ...more],
  });
}

/** Errors and warnings on the page's console, and what its scripts threw. */
export function complaints(page: Page): string[] {
  const found: string[] = [];
  page.on("console", (message) => {
    // The browser itself says so where a page asks for WebGPU and there is none.
    if (message.text() === "No available adapters.") return;
    if (message.type() === "error" || message.type() === "warning") found.push(message.text());
  });
  page.on("pageerror", (error) => found.push(String(error)));
  return found;
}

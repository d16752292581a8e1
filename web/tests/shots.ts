/**
 * Pictures of a gallery before, while and after it is restored: `node build/tests/shots.js FOLDER OUT [WIDTH]`.
 *
 * FOLDER: a gallery that tools/demo.mjs made. At 390 and 1400 pixels of width.
 */

import { complaints, launch, serve } from "./browser.js";

const [folder, out, only] = process.argv.slice(2) as [string, string, string?];
const site = await serve(folder);
const browser = await launch();
for (const [width, height] of [[390, 844], [1400, 760]] as const) {
  if (only && width !== Number(only)) continue;
  const context = await browser.newContext({ viewport: { width, height } });
  const page = await context.newPage();
  const said = complaints(page);
  const shot = (name: string): Promise<Buffer> =>
    page.screenshot({ path: `${out}/gallery-${width}-${name}.jpg`, type: "jpeg", quality: 80 });
  await page.addInitScript(() => {
    let shifts = 0;
    new PerformanceObserver((list) => list.getEntries().forEach((entry) => (shifts += (entry as unknown as { value: number }).value))).observe({
      type: "layout-shift",
      buffered: true,
    });
    Object.assign(globalThis, { shifted: () => shifts });
  });
  await page.goto(site.url, { timeout: 0 });
  await page.waitForTimeout(500);
  await shot("before");
  await page.waitForSelector('faitheir-img[state="restored"]', { timeout: 600_000 });
  await shot("during");
  // All that are in view.
  await page.waitForFunction(
    () => !document.querySelector('faitheir-img[state="restoring"]'),
    undefined,
    { timeout: 1_200_000, polling: 1000 },
  );
  await page.waitForTimeout(1000);
  await shot("after");
  const restored = await page.locator('faitheir-img[state="restored"]').count();
  const wide = await page.evaluate(() => document.documentElement.scrollWidth);
  console.log(JSON.stringify({ width, restored, wide, shifts: await page.evaluate("shifted()"), said }));
  await context.close();
}
await browser.close();
await site.close();

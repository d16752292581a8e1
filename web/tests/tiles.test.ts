import assert from "node:assert/strict";
import { test } from "node:test";

import { enlargeAlpha } from "../src/alpha.js";
import { Mosaic, nextTile, spans } from "../src/tiles.js";
import { expected, read } from "./fixtures.js";

/** Numbers that are the same in every run. */
function random(seed: number): () => number {
  return () => {
    seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0;
    return seed / 2 ** 32;
  };
}

test("spans cover every length, begin where they may, and their weights sum to 1", () => {
  const next = random(1);
  const below = (most: number): number => Math.floor(next() * most);
  for (let i = 0; i < 300; i++) {
    const align = 1 + below(8);
    const overlap = align * (1 + below(3));
    const tile = Math.ceil((2 * overlap + below(20)) / align) * align;
    const length = 1 + below(120);
    const unit = 1 + below(5);
    const found = spans(length, tile, overlap, unit, align);
    const sum = new Float64Array(length * unit);
    for (const { start, stop, weights } of found) {
      assert.equal(start % align, 0);
      assert.ok(stop - start <= Math.max(tile, 2 * overlap));
      weights.forEach((weight, k) => (sum[start * unit + k]! += weight));
    }
    assert.equal(found.at(-1)!.stop, length);
    assert.ok(sum.every((weight) => Math.abs(weight - 1) < 1e-6));
  }
});

test("tiles in any order make the picture that they make in order, each part once, and nothing is kept", () => {
  const next = random(2);
  for (const [width, height, order] of [[157, 94, 1], [157, 94, 2], [40, 300, 3], [16, 16, 4]] as const) {
    const unit = 4;
    const shuffled = random(order);
    const [rows, columns] = [height, width].map((side) => spans(Math.ceil(side / unit), 12, 4, unit, 2));
    const mosaic = new Mosaic(rows!, columns!, unit, width, height);
    const sum = new Float64Array(3 * width * height);
    const covered = new Uint8Array(width * height);
    const found = new Uint8Array(3 * width * height);
    const left = [...mosaic.tiles];
    while (left.length) {
      const [tile] = left.splice(Math.floor(shuffled() * left.length), 1);
      const [row, column] = [rows![tile!.row]!, columns![tile!.column]!];
      const [high, wide] = [(row.stop - row.start) * unit, (column.stop - column.start) * unit];
      const picture = Float32Array.from({ length: 3 * high * wide }, () => next() * 1.4 - 0.2);
      for (let c = 0; c < 3; c++) {
        for (let y = 0; y < high; y++) {
          for (let x = 0; x < wide; x++) {
            const [atX, atY] = [column.start * unit + x, row.start * unit + y];
            if (atX >= width || atY >= height) continue;
            const weight = row.weights[y]! * column.weights[x]!;
            sum[(atY * width + atX) * 3 + c]! += picture[(c * high + y) * wide + x]! * weight;
          }
        }
      }
      for (const region of mosaic.add(tile!, picture)) {
        for (let y = 0; y < region.height; y++) {
          for (let x = 0; x < region.width; x++) {
            const at = (region.y + y) * width + region.x + x;
            covered[at]! += 1;
            for (let c = 0; c < 3; c++) found[3 * at + c] = region.rgba[4 * (y * region.width + x) + c]!;
          }
        }
      }
    }
    assert.ok(covered.every((times) => times === 1));
    assert.equal((mosaic as unknown as { pending: Map<string, unknown> }).pending.size, 0);
    sum.forEach((value, i) => {
      const level = 255 * Math.min(1, Math.max(0, value));
      assert.ok(Math.abs(level - found[i]!) < 0.501, `${level} is ${found[i]}`);
    });
  }
});

test("what is visible comes first, from its middle outwards", () => {
  const tiles = [0, 1, 2, 3, 4, 5].map((column) => ({ row: 0, column }));
  const area = ({ column }: { column: number }) => ({ x: column * 100, y: 0, width: 120, height: 100 });
  const visible = { x: 330, y: 0, width: 250, height: 50 };
  const order: [number, boolean][] = [];
  while (tiles.length) {
    const { at, seen } = nextTile(tiles, area, visible);
    order.push([tiles[at]!.column, seen]);
    tiles.splice(at, 1);
  }
  assert.deepEqual(order.slice(0, 3).map(([column]) => column).sort(), [3, 4, 5]);
  assert.deepEqual(order.map(([, seen]) => seen), [true, true, true, false, false, false]);
  assert.equal(order[0]![0], 4);
});

test("alpha is enlarged to the level as Python does", () => {
  const name = "alpha.thumb.png";
  const { thumbnail, width, height, scale } = expected[name]!;
  const alphaOf = (rgba: Uint8Array): Uint8Array => rgba.filter((_, i) => i % 4 === 3);
  const alpha = alphaOf(read(`${name}.levels`));
  const found = enlargeAlpha(alpha, ...thumbnail, scale, { width, height });
  assert.ok(new Set(alpha).size > 10);
  assert.deepEqual(Buffer.from(found), Buffer.from(alphaOf(read(`${name}.restored`))));
});

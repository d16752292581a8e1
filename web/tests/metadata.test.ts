import assert from "node:assert/strict";
import { test } from "node:test";

import { crc16, kindOf, payloads, readInfo } from "../src/metadata.js";
import { expected, read } from "./fixtures.js";

for (const [name, { thumbnail, scale, width, height, weights }] of Object.entries(expected)) {
  test(`${name}: what Python wrote is read`, () => {
    const data = read(name);
    assert.deepEqual(readInfo(data, ...thumbnail), { scale, width, height, weights });
    assert.equal(payloads(data)[0]!.length, 14);
  });

  test(`${name}: of another size, it is left aside`, () => {
    assert.equal(readInfo(read(name), thumbnail[0] + 1, thumbnail[1]), undefined);
  });

  test(`${name}: cut short anywhere, nothing is thrown`, () => {
    const data = read(name);
    for (let length = 0; length < data.length; length += 3) {
      const found = readInfo(data.subarray(0, length), ...thumbnail);
      assert.ok(found === undefined || found.weights === weights);
    }
  });
}

const { thumbnail } = expected["photo2.thumb.png"]!;

test("the checksum is CRC-16/IBM-3740", () => {
  assert.equal(crc16(new TextEncoder().encode("123456789")), 0x29b1);
});

test("a picture that is no thumbnail, one that was turned and one that is damaged say nothing", () => {
  assert.equal(readInfo(read("plain.png"), 43, 29), undefined);
  assert.equal(readInfo(read("turned.png"), thumbnail[1], thumbnail[0]), undefined);
  assert.equal(readInfo(read("damaged.thumb.png"), ...thumbnail), undefined);
  assert.equal(kindOf(new Uint8Array(0)), undefined);
});

/** The thumbnail with other metadata, whose checksum is right. */
function rewritten(change: (payload: Uint8Array) => void): Uint8Array {
  const data = read("photo2.thumb.png").slice();
  const payload = payloads(data)[0]!;
  change(payload);
  const checked = new Uint8Array([...payload.subarray(0, 12), ...new Uint8Array(8)]);
  new DataView(checked.buffer).setUint32(12, thumbnail[0]);
  new DataView(checked.buffer).setUint32(16, thumbnail[1]);
  new DataView(payload.buffer, payload.byteOffset).setUint16(12, crc16(checked));
  return data;
}

test("a newer version's file is refused", () => {
  assert.throws(() => readInfo(rewritten((p) => (p[0] = 3)), ...thumbnail), { reason: "newer-format" });
});

test("metadata that contradicts itself is left aside", () => {
  assert.ok(readInfo(rewritten(() => {}), ...thumbnail));
  assert.equal(readInfo(rewritten((p) => (p[0] = 1)), ...thumbnail), undefined);
  assert.equal(readInfo(rewritten((p) => (p[1] = 0)), ...thumbnail), undefined);
  assert.equal(readInfo(rewritten((p) => (p[2] = p[1]! + 1)), ...thumbnail), undefined);
});

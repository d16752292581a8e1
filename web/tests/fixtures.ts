/** What tests/fixtures.py made, in build/. */

import { readFileSync } from "node:fs";

/** Another folder of theirs, such as one of an embedded model, by the environment. */
export const FOLDER = process.env["FIXTURES"] ?? "build/fixtures";

export interface Expected {
  scale: number;
  width: number;
  height: number;
  weights: string;
  thumbnail: [width: number, height: number];
  opaque: boolean;
}

export const expected = JSON.parse(readFileSync(`${FOLDER}/expected.json`, "utf8")) as Record<string, Expected>;

export function read(name: string): Uint8Array<ArrayBuffer> {
  return new Uint8Array(readFileSync(`${FOLDER}/${name}`));
}

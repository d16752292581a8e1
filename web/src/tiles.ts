/** Overlapping, feathered tiles: the layout and the weights of src/faitheir/tiling.py, in any order. */

export interface Span {
  /** Cells (thumbnail pixels) `start` to `stop` along one axis. */
  start: number;
  stop: number;
  /** One for each pixel of the large picture that it covers; over all spans they sum to 1. */
  weights: Float32Array;
}

/**
 * Cover `length` cells with spans of at most `tile` cells that overlap by `overlap` and start on multiples of `align`.
 *
 * `tile` and `overlap` are multiples of `align`, and `overlap` is at most half of `tile`; a cell is `unit` pixels.
 * Across an overlap the weights ramp over its middle half.
 */
export function spans(length: number, tile: number, overlap: number, unit: number, align = 1): Span[] {
  let size = tile;
  if (length > tile) {
    const count = Math.ceil((length - overlap) / (tile - overlap));
    const even = Math.ceil((length + (count - 1) * overlap) / count);
    size = Math.max(2 * overlap, Math.ceil(even / align) * align);
  }
  const step = size - overlap;
  const count = 1 + Math.ceil(Math.max(0, length - size) / step);
  const bounds = Array.from({ length: count }, (_, i) => [i * step, Math.min(i * step + size, length)] as const);
  return bounds.map(([start, stop], i) => {
    const weights = new Float32Array((stop - start) * unit).fill(1);
    const before = bounds[i - 1];
    const after = bounds[i + 1];
    for (let k = 0; k < weights.length; k++) {
      const position = start * unit + k + 0.5;
      if (before) weights[k]! *= ramp(position, start * unit, before[1] * unit);
      if (after) weights[k]! *= 1 - ramp(position, after[0] * unit, stop * unit);
    }
    return { start, stop, weights };
  });
}

function ramp(position: number, start: number, stop: number): number {
  const quarter = (stop - start) / 4;
  return Math.fround(Math.min(1, Math.max(0, (position - start - quarter) / (2 * quarter))));
}

export interface Rect {
  x: number;
  y: number;
  width: number;
  height: number;
}

/** A finished part of the picture: RGBA, row by row. */
export interface Region extends Rect {
  rgba: Uint8ClampedArray<ArrayBuffer>;
}

export interface Tile {
  row: number;
  column: number;
}

/** A stretch of one axis over which the same spans count: the indices of those, and whether their weight is 1. */
interface Stretch {
  start: number;
  stop: number;
  spans: number[];
}

/**
 * Puts tiles together in whatever order they come, and gives out every part as soon as no later tile changes it.
 *
 * Floats are kept only where tiles overlap, and only until the last of them is there.
 */
export class Mosaic {
  readonly tiles: Tile[];
  private readonly rowStretches: Stretch[];
  private readonly columnStretches: Stretch[];
  private readonly pending = new Map<string, { sum: Float32Array; missing: number }>();

  constructor(
    readonly rows: Span[],
    readonly columns: Span[],
    private readonly unit: number,
    /** Of the picture in pixels: what lies beyond is cut. */
    private readonly width: number,
    private readonly height: number,
  ) {
    this.rowStretches = stretches(rows, unit, height);
    this.columnStretches = stretches(columns, unit, width);
    this.tiles = rows.flatMap((_, row) => columns.map((_, column) => ({ row, column })));
  }

  /** The pixels of the picture that a tile has a part in. */
  area(tile: Tile): Rect {
    const [row, column] = [this.rows[tile.row]!, this.columns[tile.column]!];
    const [x, y] = [column.start * this.unit, row.start * this.unit];
    return {
      x,
      y,
      width: Math.min(column.stop * this.unit, this.width) - x,
      height: Math.min(row.stop * this.unit, this.height) - y,
    };
  }

  /** What a tile completes; `picture` is (3, h, w) in planes, nominally in [0, 1]. */
  add(tile: Tile, picture: Float32Array): Region[] {
    const row = this.rows[tile.row]!;
    const column = this.columns[tile.column]!;
    const columns = (column.stop - column.start) * this.unit;
    const plane = columns * (row.stop - row.start) * this.unit;
    const finished: Region[] = [];
    for (const [i, down] of this.rowStretches.entries()) {
      if (!down.spans.includes(tile.row)) continue;
      for (const [j, across] of this.columnStretches.entries()) {
        if (!across.spans.includes(tile.column)) continue;
        const [width, height] = [across.stop - across.start, down.stop - down.start];
        const count = down.spans.length * across.spans.length;
        const key = `${i},${j}`;
        const part = this.pending.get(key) ?? { sum: new Float32Array(3 * width * height), missing: count };
        for (let y = 0; y < height; y++) {
          const top = down.start + y - row.start * this.unit;
          for (let x = 0; x < width; x++) {
            const left = across.start + x - column.start * this.unit;
            const weight = count === 1 ? 1 : Math.fround(row.weights[top]! * column.weights[left]!);
            for (let c = 0; c < 3; c++) {
              part.sum[c * width * height + y * width + x]! += picture[c * plane + top * columns + left]! * weight;
            }
          }
        }
        part.missing -= 1;
        if (part.missing > 0) {
          this.pending.set(key, part);
          continue;
        }
        this.pending.delete(key);
        finished.push({ x: across.start, y: down.start, width, height, rgba: levels(part.sum, width * height) });
      }
    }
    return finished;
  }
}

/** Where a span alone counts, and where it ramps into the next one. */
function stretches(all: Span[], unit: number, length: number): Stretch[] {
  const found: Stretch[] = [];
  const end = Math.min(length, all.at(-1)!.stop * unit);
  for (let at = 0; at < end; at++) {
    const counting = all.flatMap((span, i) => ((span.weights[at - span.start * unit] ?? 0) > 0 ? [i] : []));
    const last = found.at(-1);
    if (last && last.spans.join() === counting.join()) last.stop = at + 1;
    else found.push({ start: at, stop: at + 1, spans: counting });
  }
  return found;
}

/** [0, 1] in three planes to RGBA, rounded to even as numpy's rint does. */
function levels(sum: Float32Array, count: number): Uint8ClampedArray<ArrayBuffer> {
  // Uint8ClampedArray clamps, and rounds halves to even.
  const rgba = new Uint8ClampedArray(4 * count);
  for (let i = 0; i < count; i++) {
    for (let c = 0; c < 3; c++) rgba[4 * i + c] = Math.fround(sum[c * count + i]! * 255);
    rgba[4 * i + 3] = 255;
  }
  return rgba;
}

/** The tile to do next: of those that touch what is visible the nearest to its middle, else the nearest. */
export function nextTile(tiles: Tile[], area: (tile: Tile) => Rect, visible: Rect): { at: number; seen: boolean } {
  const [middleX, middleY] = [visible.x + visible.width / 2, visible.y + visible.height / 2];
  let best = { at: -1, seen: false };
  let least = Infinity;
  for (const [at, tile] of tiles.entries()) {
    const { x, y, width, height } = area(tile);
    const across = x < visible.x + visible.width && visible.x < x + width;
    const seen = across && y < visible.y + visible.height && visible.y < y + height;
    const distance = Math.hypot(x + width / 2 - middleX, y + height / 2 - middleY) + (seen ? 0 : 1e9);
    if (distance < least) [best, least] = [{ at, seen }, distance];
  }
  return best;
}

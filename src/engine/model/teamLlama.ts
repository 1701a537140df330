/**
 * The forward pass of `llama.ts` for generation and scoring, beside tfjs: on memory that threads share, each step one
 * program that all of them run. The same operations on the same numbers in the same order of sums, so a row has the
 * bytes that `llama.ts` gives it on the wasm kernels, in any company and by any number of threads.
 *
 * What is split: products by outputs, attention by sequence and key/value head, the exponentials of logits by blocks of
 * ids, the rest by rows.
 */
import type { CacheDtype } from "../../ops/cacheDtype.ts";
import { dtypeBytes } from "../../ops/dtype.ts";
import type { InferenceFunctions } from "../kernels/inference/module.ts";
import type { PanelMatrix, PanelProducts, ProductInputs, Rows } from "../kernels/inference/panels.ts";
import { mostBlasOutputs, mostDirectRows } from "../kernels/inference/panels.ts";
import type { TeamMember } from "../kernels/inference/team.ts";
import { mostParts } from "../kernels/inference/team.ts";
import { computeBlocks, logitStride } from "./logitPlaces.ts";

export interface TeamLayer {
  /** Addresses of [D] float32. */
  readonly inputNorm: number;
  readonly postNorm: number;
  readonly q: PanelMatrix;
  readonly k: PanelMatrix;
  readonly v: PanelMatrix;
  readonly o: PanelMatrix;
  readonly gate: PanelMatrix;
  readonly up: PanelMatrix;
  readonly down: PanelMatrix;
}

/** A model on shared memory. Plain data: it crosses to threads. */
export interface TeamLlama {
  readonly hiddenSize: number;
  readonly intermediateSize: number;
  readonly numHeads: number;
  readonly numKeyValueHeads: number;
  readonly headDim: number;
  readonly eps: number;
  readonly embedding: PanelMatrix;
  readonly layers: readonly TeamLayer[];
  readonly norm: number;
  readonly head: PanelMatrix;
  readonly cacheDtype: CacheDtype;
}

/** New positions of one sequence. */
export interface TeamSequence {
  readonly rows: number;
  /** Positions that its pages hold already. */
  readonly offset: number;
  /** Address of the addresses of its pages. */
  readonly pages: number;
}

/** The inputs of a step. */
export interface TeamStep {
  readonly ids: Int32Array;
  /** Rows whose logits are wanted. */
  readonly wanted: Int32Array;
  readonly sequences: readonly TeamSequence[];
  readonly places: StepPlaces;
}

/** Where a step writes. Strides are whole panels, so that products need not mind the last one. */
export interface StepPlaces {
  readonly x: Rows;
  readonly normed: Rows;
  readonly q: Rows;
  readonly k: Rows;
  readonly v: Rows;
  readonly mixed: Rows;
  readonly gate: Rows;
  readonly up: Rows;
  readonly added: Rows;
  /** [rows, H / 2], written before the step. */
  readonly cos: Rows;
  readonly sin: Rows;
  readonly logits: Rows;
}

/** What one thread computes with. */
export interface TeamThread {
  readonly member: TeamMember;
  readonly threads: number;
  readonly c: InferenceFunctions;
  readonly products: PanelProducts;
  /** This thread's own: for attention, and `fewRows` rows of the width of the model. */
  readonly scratch: number;
  readonly normed: number;
}

/** So many rows are one part of what is split by rows; each thread norms them for itself and waits for no other. */
export const fewRows = 16;
/** Parts of attention for each thread, at least, where there are so many heads. */
const attentionParts = 2;
/** Outputs of a part of a product, at least: the four panels that one row of 16-bit weights takes at once. */
const leastOutputs = 64;

/** @returns the places of a step of `rows` rows from `at` on, the logits elsewhere, and where they end. */
export function placesOf(
  { hiddenSize, intermediateSize, numHeads, numKeyValueHeads, headDim, head }: TeamLlama,
  rows: number,
  at: number,
  logitsAt: number,
): { places: StepPlaces; end: number } {
  let next = at;
  const place = (columns: number): Rows => {
    const stride = paneled(columns);
    const found = { at: next, stride };
    next += rows * stride * 4;
    return found;
  };
  const [queries, keys] = [numHeads * headDim, numKeyValueHeads * headDim];
  const places = {
    ...{ x: place(hiddenSize), normed: place(hiddenSize), added: place(hiddenSize) },
    ...{ q: place(queries), k: place(keys), v: place(keys), mixed: place(queries) },
    ...{ gate: place(intermediateSize), up: place(intermediateSize) },
    cos: { at: next, stride: headDim / 2 },
    sin: { at: next + rows * headDim * 2, stride: headDim / 2 },
    logits: { at: logitsAt, stride: logitStride(head.outputs) },
  };
  return { places, end: next + rows * headDim * 4 };
}

/** @returns so many columns in whole panels of any build. */
export function paneled(columns: number): number {
  return Math.ceil(columns / 16) * 16;
}

/** One step, by all threads of the team; the logits of the wanted rows lie at `places.logits` afterwards. */
export function runTeamStep(thread: TeamThread, model: TeamLlama, step: TeamStep): void {
  const { member, c } = thread;
  const { ids, wanted, places } = step;
  const { embedding, hiddenSize, eps } = model;
  const rows = ids.length;
  byRows(member, rows, (row) => {
    c.panel_row(ids[row]!, hiddenSize, embedding.wide ? 1 : 0, embedding.at, rowAt(places.x, row));
  });
  model.layers.forEach((layer, index) => layerStep(thread, model, layer, index, step));
  if (wanted.length === 0) return;
  const normed = norm(thread, wanted.length, places.normed, (row, to) => {
    c.rms_norm_forward(1, hiddenSize, eps, rowAt(places.x, wanted[row]!), model.norm, to);
  });
  project(thread, wanted.length, normed, [[model.head, places.logits]]);
  computeBlocks(member, c, wanted.length, model.head.outputs, places.logits);
}

/** x + attention(norm(x)), then that + mlp(norm(that)), in place. */
function layerStep(thread: TeamThread, model: TeamLlama, layer: TeamLayer, index: number, step: TeamStep): void {
  const { c, products } = thread;
  const { x, q, k, v, mixed, gate, up, added } = step.places;
  const rows = step.ids.length;
  const normedBy = (gain: number): Rows =>
    norm(thread, rows, step.places.normed, (row, to) => {
      c.rms_norm_forward(1, model.hiddenSize, model.eps, rowAt(x, row), gain, to);
    });
  /** Adds outputs of a product to the stream. */
  const addToStream = (first: number, outputs: number): void => {
    const own = Math.min(outputs, model.hiddenSize - first);
    c.add_rows(rows, own, x.at + first * 4, x.stride, added.at + first * 4, added.stride);
  };
  project(thread, rows, normedBy(layer.inputNorm), [
    [layer.q, q],
    [layer.k, k],
    [layer.v, v],
  ]);
  attend(thread, model, index, step);
  project(thread, rows, mixed, [[layer.o, added]], addToStream);
  project(thread, rows, normedBy(layer.postNorm), [[layer.gate, gate]], (first, outputs, inputs) => {
    products.part(inputs, layer.up, up, first / products.width, outputs / products.width);
    c.swiglu_rows(rows, outputs, gate.at + first * 4, up.at + first * 4, gate.stride);
  });
  project(thread, rows, gate, [[layer.down, added]], addToStream);
}

/** Products of the same rows with several matrices; `after` is called with the outputs of each part, and the rows. */
function project(
  { member, threads, products }: TeamThread,
  rows: number,
  x: Rows,
  targets: readonly (readonly [PanelMatrix, Rows])[],
  after?: (first: number, outputs: number, inputs: ProductInputs) => void,
): void {
  const { width } = products;
  const panels = targets.map(([{ outputs }]) => Math.ceil(outputs / width));
  const size = panelsOfPart(panels, width, rows, threads);
  const inputs = products.inputs(rows, x);
  const parts = panels.map((count) => Math.ceil(count / size));
  member.each(
    parts.reduce((sum, count) => sum + count, 0),
    (part) => {
      let [which, own] = [0, part];
      while (own >= parts[which]!) own -= parts[which++]!;
      const [matrix, y] = targets[which]!;
      const first = own * size;
      const count = Math.min(size, panels[which]! - first);
      products.part(inputs, matrix, y, first, count);
      after?.(first * width, count * width, inputs);
    },
  );
}

/**
 * @param panels of each matrix that the same rows meet, of `width` outputs
 * @returns how many are a part: so many that the parts of all are at most `mostParts`
 */
export function panelsOfPart(panels: readonly number[], width: number, rows: number, threads: number): number {
  const all = panels.reduce((sum, count) => sum + count, 0);
  const least = leastOutputs / width;
  // Many rows read their inputs again for each part, and BLAS packs them: fewer and larger parts, two a thread.
  const preferred = rows > mostDirectRows ? Math.min(Math.ceil(all / (2 * threads)), mostBlasOutputs / width) : least;
  // The last part of each matrix may be a small one.
  const needed = Math.ceil(all / (mostParts - panels.length));
  return Math.ceil(Math.max(needed, preferred) / least) * least;
}

function attend({ member, threads, c, scratch }: TeamThread, model: TeamLlama, layer: number, step: TeamStep): void {
  const { numHeads, numKeyValueHeads: kvHeads, headDim } = model;
  const { q, k, v, cos, sin, mixed } = step.places;
  const group = numHeads / kvHeads;
  const layerBytes = layer * layerPageBytes(c, model);
  const wide = model.cacheDtype === "F32" ? 1 : 0;
  const firsts: number[] = [];
  let rows = 0;
  for (const sequence of step.sequences) {
    firsts.push(rows);
    rows += sequence.rows;
  }
  // A sequence's heads lie one after the other: they are split only as far as there are threads to feed.
  const splits = Math.min(kvHeads, Math.ceil((attentionParts * threads) / step.sequences.length));
  const most = Math.ceil(kvHeads / splits);
  const ofSequence = Math.ceil(kvHeads / most);
  const items = step.sequences.length * ofSequence;
  const byParts = Math.ceil(items / mostParts);
  member.each(Math.ceil(items / byParts), (part) => {
    for (let item = part * byParts; item < Math.min(items, (part + 1) * byParts); item++) {
      const [which, kv] = [Math.floor(item / ofSequence), (item % ofSequence) * most];
      const { rows: own, offset, pages } = step.sequences[which]!;
      const [first, ofQueries, ofKeys] = [firsts[which]!, kv * group * headDim * 4, kv * headDim * 4];
      const at = (place: Rows): number => rowAt(place, first);
      const heads = [Math.min(most, kvHeads - kv), group, headDim] as const;
      const cache = [kv, kvHeads, layerBytes, wide, 0, pages] as const;
      const queries = [at(q) + ofQueries, q.stride] as const;
      const past = [at(k) + ofKeys, at(v) + ofKeys, k.stride] as const;
      const out = [at(mixed) + ofQueries, mixed.stride] as const;
      c.paged_attention(own, ...heads, offset, ...cache, ...queries, ...past, at(cos), at(sin), ...out, scratch);
    }
  });
}

/** @returns bytes that one layer has of a page. */
export function layerPageBytes(c: InferenceFunctions, { numKeyValueHeads, headDim, cacheDtype }: TeamLlama): number {
  return 2 * numKeyValueHeads * c.page_positions() * headDim * dtypeBytes(cacheDtype);
}

/**
 * Has `ofRow` write rows of the width of the model, `shared` by all threads, or few of them by each for itself: what it
 * reads may then change under a thread that comes late, to which no part of the product with them is left.
 * @returns the rows
 */
function norm(
  { member, normed }: TeamThread,
  rows: number,
  shared: Rows,
  ofRow: (row: number, to: number) => void,
): Rows {
  const isOwn = rows <= fewRows;
  const to = isOwn ? { at: normed, stride: shared.stride } : shared;
  if (isOwn) for (let row = 0; row < rows; row++) ofRow(row, rowAt(to, row));
  else byRows(member, rows, (row) => ofRow(row, rowAt(to, row)));
  return to;
}

function byRows(member: TeamMember, rows: number, work: (row: number) => void): void {
  const size = Math.max(fewRows, Math.ceil(rows / mostParts));
  member.each(Math.ceil(rows / size), (part) => {
    for (let row = part * size; row < Math.min(rows, (part + 1) * size); row++) work(row);
  });
}

function rowAt({ at, stride }: Rows, row: number): number {
  return at + row * stride * 4;
}

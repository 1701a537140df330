/**
 * `BatchDecoder` on shared memory: contexts are lists of pages of the keys and values of all layers, taken when they
 * are needed; a step is written down as a plan and run by all threads of the team.
 */
import { invariant } from "../../ops/errors.ts";
import type { LlamaConfig } from "../../ops/architectures/llamaConfig.ts";
import type { SharedHeap } from "../kernels/inference/sharedHeap.ts";
import { blockIds } from "../kernels/inference/rowBlocks.ts";
import { blocksAt, logitStride } from "../model/logitPlaces.ts";
import { ropeAngles } from "../model/ropeTables.ts";
import type { StepPlaces, TeamLlama, TeamThread } from "../model/teamLlama.ts";
import { layerPageBytes, placesOf, runTeamStep } from "../model/teamLlama.ts";
import type { BatchDecoder, Context, StepPart } from "./decoder.ts";
import { maxStepTokens } from "./decoder.ts";
import { LogitRow } from "./logitRow.ts";
import type { StepSize } from "./stepWork.ts";
import type { StepRoom } from "./teamPlan.ts";
import { planWords, stepOf, writePlan } from "./teamPlan.ts";

/** How many contexts hold each page, where it is more than one. */
type Sharers = Map<number, number>;

/** Keys and values of one sequence. Pages are shared between a context and those forked from it until one writes. */
class PagedContext implements Context {
  readonly #heap: SharedHeap;
  readonly #pageBytes: number;
  readonly #positions: number;
  readonly #mostPages: number;
  readonly #sharers: Sharers;
  #pages: number[] = [];
  /** Address of the addresses of the pages; 0 when it is closed. */
  table: number;
  length = 0;

  constructor(heap: SharedHeap, pageBytes: number, positions: number, capacity: number, sharers: Sharers) {
    this.#heap = heap;
    this.#pageBytes = pageBytes;
    this.#positions = positions;
    this.#mostPages = Math.ceil(capacity / positions);
    this.#sharers = sharers;
    this.table = heap.take(4 * this.#mostPages);
  }

  get room(): number {
    return this.#pages.length * this.#positions;
  }

  /** Makes room for writing the positions from this context's length up to `length`. @throws out_of_memory */
  reserve(length: number): void {
    invariant(this.table !== 0, "a context that is closed takes part in a step");
    const wanted = Math.ceil(length / this.#positions);
    invariant(wanted <= this.#mostPages, `${length} positions in a context of ${this.#mostPages} pages`);
    const held = Math.min(wanted, this.#pages.length);
    for (let index = Math.floor(this.length / this.#positions); index < held; index++) this.#makeOwn(index);
    while (this.#pages.length < wanted) this.#place(this.#pages.length, this.#heap.take(this.#pageBytes));
  }

  truncate(length: number): void {
    const isWithin = length >= 0 && length <= this.length;
    invariant(isWithin, `cannot cut ${this.length} positions to ${length}`);
    this.length = length;
  }

  fork(length: number, capacity: number): PagedContext {
    invariant(this.table !== 0 && length <= this.length, `no fork of ${length} positions of ${this.length}`);
    invariant(length <= capacity, `${length} positions in a context of ${capacity}`);
    const fork = new PagedContext(this.#heap, this.#pageBytes, this.#positions, capacity, this.#sharers);
    for (const [index, page] of this.#pages.slice(0, Math.ceil(length / this.#positions)).entries()) {
      this.#sharers.set(page, (this.#sharers.get(page) ?? 1) + 1);
      fork.#place(index, page);
    }
    fork.length = length;
    return fork;
  }

  close(): void {
    if (this.table === 0) return;
    for (const page of this.#pages) this.#leave(page);
    this.#heap.give(this.table);
    this.#pages = [];
    this.table = 0;
  }

  #place(index: number, page: number): void {
    new Uint32Array(this.#heap.memory.buffer, this.table, this.#mostPages)[index] = page;
    this.#pages[index] = page;
  }

  /** Copies a page that others hold too. */
  #makeOwn(index: number): void {
    const page = this.#pages[index]!;
    if (!this.#sharers.has(page)) return;
    const own = this.#heap.take(this.#pageBytes);
    new Uint8Array(this.#heap.memory.buffer).copyWithin(own, page, page + this.#pageBytes);
    this.#place(index, own);
    this.#leave(page);
  }

  #leave(page: number): void {
    const sharers = this.#sharers.get(page) ?? 1;
    if (sharers > 2) this.#sharers.set(page, sharers - 1);
    else if (sharers === 2) this.#sharers.delete(page);
    else this.#heap.give(page);
  }
}

/**
 * @param plan address of `planWords` words
 * @param isShared whether all threads share a step, or the first makes it alone
 * @returns a decoder over a model that it does not own
 */
export function teamDecoder(
  config: LlamaConfig,
  heap: SharedHeap,
  thread: TeamThread,
  model: TeamLlama,
  plan: number,
  isShared: (model: TeamLlama, step: StepSize) => boolean,
): BatchDecoder {
  const pageBytes = config.numHiddenLayers * layerPageBytes(thread.c, model);
  const words = new Int32Array(heap.memory.buffer, plan, planWords);
  const rooms = new StepRooms(heap, model);
  const scratch = heap.take(Math.ceil(config.vocabSize / blockIds) * 8);
  const sharers: Sharers = new Map();
  return {
    maxLength: config.maxPositionEmbeddings,
    vocabSize: config.vocabSize,
    start: (capacity) => new PagedContext(heap, pageBytes, thread.c.page_positions(), capacity, sharers),
    async step(parts) {
      const ids = Int32Array.from(parts.flatMap((part) => part.ids));
      const wanted = Int32Array.from(wantedRows(parts));
      const sequences = parts.map(({ context, ids: { length: rows } }) => {
        invariant(context instanceof PagedContext, "a step names a context that this decoder did not start");
        context.reserve(context.length + rows);
        return { rows, offset: context.length, pages: context.table };
      });
      const room = rooms.for(ids.length, wanted.length);
      const { places } = placesOf(model, room.rows, room.at, room.logitsAt);
      writeAngles(config, heap, places, sequences);
      const step = { ids, wanted, sequences, room, memoryBytes: heap.memory.buffer.byteLength };
      let firstPhase = 0;
      const write = (phase: number): void => writePlan(words, { ...step, firstPhase: (firstPhase = phase) });
      const run = (): void => runTeamStep(thread, model, stepOf(model, { ...step, firstPhase }));
      thread.member.lead(write, run, !isShared(model, step));
      for (const { context, ids: added } of parts) (context as PagedContext).length += added.length;
      return rowsAt(thread, heap, places, wanted.length, config.vocabSize, scratch);
    },
  };
}

/** Room for what steps write; it is made anew when a step is larger than all before. */
class StepRooms {
  readonly #heap: SharedHeap;
  readonly #model: TeamLlama;
  #room: StepRoom = { rows: 0, at: 0, logitsAt: 0 };
  #logitRows = 0;

  constructor(heap: SharedHeap, model: TeamLlama) {
    this.#heap = heap;
    this.#model = model;
  }

  for(rows: number, logitRows: number): StepRoom {
    if (rows > this.#room.rows) {
      if (this.#room.at !== 0) this.#heap.give(this.#room.at);
      const most = Math.ceil(rows / maxStepTokens) * maxStepTokens;
      this.#room = { ...this.#room, rows: 0, at: 0 };
      this.#room = { ...this.#room, at: this.#heap.take(placesOf(this.#model, most, 0, 0).end), rows: most };
    }
    if (logitRows > this.#logitRows) {
      if (this.#room.logitsAt !== 0) this.#heap.give(this.#room.logitsAt);
      this.#room = { ...this.#room, logitsAt: 0 };
      this.#logitRows = 0;
      const logitsAt = this.#heap.take(logitRows * logitStride(this.#model.head.outputs) * 4);
      this.#room = { ...this.#room, logitsAt };
      this.#logitRows = logitRows;
    }
    return this.#room;
  }
}

function writeAngles(
  config: LlamaConfig,
  heap: SharedHeap,
  { cos, sin }: StepPlaces,
  sequences: readonly { readonly rows: number; readonly offset: number }[],
): void {
  let first = 0;
  for (const { rows, offset } of sequences) {
    const angles = ropeAngles(config, offset, rows);
    const { buffer } = heap.memory;
    new Float32Array(buffer, cos.at + first * cos.stride * 4, rows * cos.stride).set(angles.cos);
    new Float32Array(buffer, sin.at + first * sin.stride * 4, rows * sin.stride).set(angles.sin);
    first += rows;
  }
}

/**
 * @param scratch for the sums of a row's blocks at another temperature than 1
 * @returns the wanted rows where they lie, with the blocks that the step computed
 */
function rowsAt(
  thread: TeamThread,
  heap: SharedHeap,
  places: StepPlaces,
  rows: number,
  vocabSize: number,
  scratch: number,
): LogitRow[] {
  const { buffer } = heap.memory;
  const count = Math.ceil(vocabSize / blockIds);
  return Array.from({ length: rows }, (_, row) => {
    const at = places.logits.at + row * places.logits.stride * 4;
    const { maxima: maximaAt, sums: sumsAt } = blocksAt(at, vocabSize);
    const maxima = new Float64Array(buffer, maximaAt, count);
    const plain = { maxima, sums: new Float64Array(buffer, sumsAt, count) };
    return new LogitRow(new Float32Array(buffer, at, vocabSize), plain, (scale) => {
      thread.c.row_blocks(vocabSize, scale, at, maximaAt, scratch);
      return { maxima, sums: new Float64Array(buffer, scratch, count).slice() };
    });
  });
}

/** @returns the rows of a step whose logits are wanted: the last of each part. */
function wantedRows(parts: readonly StepPart[]): number[] {
  let end = 0;
  return parts.flatMap(({ ids, rows }) => {
    end += ids.length;
    return Array.from({ length: rows }, (_, i) => end - rows + i);
  });
}

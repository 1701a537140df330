/** A `BatchDecoder` that is a table: a row tells the whole context, and steps and memory are counted. */
import assert from "node:assert/strict";
import type { BatchDecoder, Context } from "../../src/engine/infer/decoder.ts";
import { rowsOf } from "../../src/engine/infer/logitRow.ts";
import { CodedError } from "../../src/ops/errors.ts";

/** Ids computed for each context in one step, by the order in which contexts were started or forked. */
export type Step = Map<number, readonly number[]>;

export interface TableBatch extends BatchDecoder {
  readonly steps: Step[];
  /** Contexts that are not closed. */
  open: number;
  /** Positions that those hold, in whole steps of 64, as if nothing were shared. */
  readonly held: number;
  /** Number of the step that finds no memory. */
  failAt: number;
  /** Called instead of failing, where it is set: whether a step finds memory. */
  hasRoom: (() => boolean) | null;
}

/** A row tells the whole context: its length, its sum weighted by position, and the column. */
export function rowAfter(ids: readonly number[], vocab: number): number[] {
  const sum = ids.reduce((total, id, i) => (total + id * (i + 1)) % 9973, 0);
  return Array.from({ length: vocab }, (_, column) => ((sum + column * 7 + ids.length) % 101) / 8);
}

export function tableBatch(vocabSize = 3, maxLength = 10_000): TableBatch {
  const contexts = new Map<Context, { number: number; ids: number[] }>();
  let started = 0;
  const decoder: TableBatch = {
    ...{ maxLength, vocabSize, steps: [], open: 0, failAt: -1, hasRoom: null },
    get held() {
      return [...contexts.keys()].reduce((sum, { room }) => sum + room, 0);
    },
    start: () => contextOf([]),
    async step(parts) {
      assert.ok(parts.length > 0, "a step does something");
      assert.equal(new Set(parts.map(({ context }) => context)).size, parts.length, "contexts of a step differ");
      if (decoder.hasRoom?.() === false) throw new CodedError("out_of_memory", "no room");
      decoder.steps.push(new Map(parts.map(({ context, ids }) => [contexts.get(context)!.number, ids])));
      await new Promise((resolve) => setImmediate(resolve));
      if (decoder.steps.length - 1 === decoder.failAt) throw new CodedError("out_of_memory", "no room");
      const out: number[] = [];
      for (const { context, ids, rows } of parts) {
        const { ids: held } = contexts.get(context)!;
        for (const [i, id] of ids.entries()) {
          held.push(id);
          if (i >= ids.length - rows) out.push(...rowAfter(held, vocabSize));
        }
      }
      return rowsOf(Float32Array.from(out), vocabSize);
    },
  };
  function contextOf(ids: number[]): Context {
    const state = { number: started++, ids };
    decoder.open++;
    const context: Context = {
      get length() {
        return state.ids.length;
      },
      get room() {
        return Math.ceil(state.ids.length / 64) * 64;
      },
      truncate: (length) => void state.ids.splice(length),
      fork(length) {
        assert.ok(contexts.has(context) && length <= state.ids.length, "a fork of what is there");
        return contextOf(state.ids.slice(0, length));
      },
      close: () => void (contexts.delete(context) && decoder.open--),
    };
    contexts.set(context, state);
    return context;
  }
  return decoder;
}

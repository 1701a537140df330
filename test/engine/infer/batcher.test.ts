/** The batch as its sequences see it, over a model that is a table and notes its steps. */
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { batching, sharedPromptTokens } from "../../../src/engine/infer/batcher.ts";
import type { StepStats } from "../../../src/engine/infer/batcher.ts";
import type { Decoder, PromptDecoder } from "../../../src/engine/infer/decoder.ts";
import { maxStepLogits, maxStepTokens } from "../../../src/engine/infer/decoder.ts";
import { generate } from "../../../src/engine/infer/generate.ts";
import { rowsOf } from "../../../src/engine/infer/logitRow.ts";
import type { GenerateRequest } from "../../../src/engine/infer/servedModel.ts";
import { CodedError } from "../../../src/ops/errors.ts";
import { rowAfter, tableBatch } from "../../helpers/tableBatch.ts";
import type { Step } from "../../helpers/tableBatch.ts";

const never = new AbortController().signal;

function plain(change: Partial<GenerateRequest>): GenerateRequest {
  const settings = { temperature: 0, topP: 1, seed: 0, stopIds: [], logprobs: null, echo: false };
  return { promptIds: [1, 2], maxTokens: 4, ...settings, ...change };
}

/** Sequences that share nothing. */
function alone(decoder: Decoder): PromptDecoder {
  return { ...decoder, open: async ({ capacity }, signal) => decoder.start(capacity, signal) };
}

async function idsOf(decoder: Decoder, request: GenerateRequest, signal = never): Promise<number[]> {
  const ids: number[] = [];
  for await (const event of generate(alone(decoder), request, signal)) if (event.type === "token") ids.push(event.id);
  return ids;
}

const range = (count: number): number[] => Array.from({ length: count }, (_, i) => i % 3);
const sizes = (step: Step): number[] => [...step.values()].map((ids) => ids.length);

test("sequences that decode are all in every step, and one that comes later joins the next", async () => {
  const table = tableBatch();
  const decoder = batching(table);
  const runs = [0, 1, 2].map((seed) => idsOf(decoder, plain({ seed, maxTokens: 8 })));
  while (table.steps.length < 4) await new Promise((resolve) => setImmediate(resolve));
  const at = table.steps.length;
  runs.push(idsOf(decoder, plain({ promptIds: [2], maxTokens: 2 })));
  await Promise.all(runs);
  assert.deepEqual(sizes(table.steps[0]!), [2, 2, 2]);
  assert.deepEqual(table.steps.slice(1, at).map(sizes), Array(at - 1).fill([1, 1, 1]));
  const joined = table.steps.findIndex((step) => step.has(3));
  assert.ok(joined >= at && joined <= at + 1, `joined at step ${joined}, asked for before step ${at + 1}`);
  assert.equal(table.steps.length, 8, "nobody made a step of its own");
  assert.equal(table.open, 0);
});

test("a long prompt is computed in pieces between which the others make every token", async () => {
  const table = tableBatch();
  const decoder = batching(table);
  const runs = [idsOf(decoder, plain({ maxTokens: 60 })), idsOf(decoder, plain({ maxTokens: 60 }))];
  while (table.steps.length < 3) await new Promise((resolve) => setImmediate(resolve));
  runs.push(idsOf(decoder, plain({ promptIds: range(900), maxTokens: 2 })));
  await Promise.all(runs);
  const shared = table.steps.filter((step) => step.has(2) && step.size > 1);
  assert.ok(shared.length >= 900 / sharedPromptTokens);
  for (const step of shared) {
    assert.ok(step.get(2)!.length <= sharedPromptTokens);
    assert.ok(step.get(0)?.length === 1 && step.get(1)?.length === 1, "the others go on in the same step");
  }
});

test("long prompts take turns, so that a short one is not kept waiting for a long one's end", async () => {
  const table = tableBatch();
  const decoder = batching(table);
  const long = idsOf(decoder, plain({ promptIds: range(5000), maxTokens: 1 }));
  while (table.steps.length < 2) await new Promise((resolve) => setImmediate(resolve));
  await idsOf(decoder, plain({ promptIds: range(20), maxTokens: 1 }));
  assert.ok(table.steps.length <= 6, `after ${table.steps.length} steps`);
  await long;
  assert.ok(table.steps.every((step) => sizes(step).reduce((a, b) => a + b) <= maxStepTokens));
});

test("what a sequence gets is what it gets alone, whatever is asked for beside it", async () => {
  const piece = fc.record({ ids: fc.array(fc.nat(50), { minLength: 1, maxLength: 400 }), read: fc.nat(400) });
  const sequences = fc.array(fc.array(piece, { minLength: 1, maxLength: 4 }), { minLength: 1, maxLength: 6 });
  await fc.assert(
    fc.asyncProperty(sequences, async (all) => {
      const decoder = batching(tableBatch(5));
      await Promise.all(
        all.map(async (pieces) => {
          const sequence = decoder.start(2000);
          const context: number[] = [];
          for (const { ids, read } of pieces) {
            const rows = Math.min(read, ids.length);
            const made = await sequence.append(ids, rows);
            const expected: number[] = [];
            for (const [i, id] of ids.entries()) {
              context.push(id);
              if (i >= ids.length - rows) expected.push(...rowAfter(context, 5));
            }
            assert.deepEqual(
              made.flatMap(({ logits }) => [...logits]),
              expected,
            );
          }
          sequence.close();
        }),
      );
    }),
    { numRuns: 40, seed: 6 },
  );
});

test("logits of a step are bounded for any number of sequences and any vocabulary", async () => {
  const vocab = maxStepLogits / 4;
  let most = 0;
  const table = tableBatch(vocab);
  const step = table.step.bind(table);
  const decoder = batching({
    ...table,
    start: table.start.bind(table),
    step: async (parts) => {
      const rows = parts.reduce((sum, part) => sum + part.rows, 0);
      most = Math.max(most, rows);
      await step(parts.map((part) => ({ ...part, rows: 0 })));
      return rowsOf(new Float32Array(rows * vocab), vocab);
    },
  });
  await Promise.all(
    [7, 3, 1, 1, 1, 1, 1].map(async (rows) => {
      const sequence = decoder.start(10);
      assert.equal((await sequence.append(range(rows + 2), rows)).length, rows);
      sequence.close();
    }),
  );
  assert.equal(most, 4);
});

test("giving a request up takes it out before the next step, in mid-prompt too", async () => {
  const table = tableBatch();
  const decoder = batching(table);
  const controller = new AbortController();
  const stays = idsOf(decoder, plain({ maxTokens: 40 }));
  const leaves = idsOf(decoder, plain({ promptIds: range(2000), maxTokens: 9 }), controller.signal);
  leaves.catch(() => undefined);
  while (table.steps.filter((step) => step.has(1)).length < 4) await new Promise((resolve) => setImmediate(resolve));
  controller.abort();
  const at = table.steps.length;
  await assert.rejects(leaves, (error) => error instanceof CodedError && error.code === "cancelled");
  await stays;
  assert.ok(!table.steps.slice(at).some((step) => step.has(1)));
  assert.equal(table.open, 0);
});

test("a step that fails fails those that were in it; the next ones are made", async () => {
  const table = tableBatch();
  table.failAt = 1;
  const decoder = batching(table);
  const outcomes = await Promise.allSettled([idsOf(decoder, plain({})), idsOf(decoder, plain({ maxTokens: 1 }))]);
  assert.deepEqual(
    outcomes.map(({ status }) => status),
    ["rejected", "fulfilled"],
  );
  assert.equal((await idsOf(decoder, plain({}))).length, 4);
  assert.equal(table.open, 0);
});

test("a step that finds no memory is made again once some was given back, and fails nobody", async () => {
  const table = tableBatch();
  let kept = 2;
  table.hasRoom = () => kept === 0;
  const decoder = batching(table, { relieve: () => kept > 0 && kept-- > 0 });
  assert.equal((await idsOf(decoder, plain({}))).length, 4);
  assert.equal(kept, 0);
  table.hasRoom = () => false;
  await assert.rejects(idsOf(decoder, plain({})), (error) => (error as CodedError).code === "out_of_memory");
  assert.equal(table.open, 0);
});

test("each step is told to the observer", async () => {
  const steps: StepStats[] = [];
  const decoder = batching(tableBatch(), { observe: (step) => steps.push(step) });
  await Promise.all([0, 1].map(() => idsOf(decoder, plain({ maxTokens: 3 }))));
  assert.deepEqual(
    steps.map(({ sequences, tokens }) => [sequences, tokens]),
    [
      [2, 4],
      [2, 2],
      [2, 2],
    ],
  );
  assert.ok(steps.every(({ seconds }) => seconds >= 0));
});

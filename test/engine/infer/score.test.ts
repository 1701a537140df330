/** Scoring over a decoder that is a table: what is asked of the model, in which steps, and what is made of its answers. */
import assert from "node:assert/strict";
import { test } from "node:test";
import type { BatchDecoder, Context, StepPart } from "../../../src/engine/infer/decoder.ts";
import { maxStepLogits } from "../../../src/engine/infer/decoder.ts";
import { score, scoreStepTokens } from "../../../src/engine/infer/score.ts";
import { rowsOf } from "../../../src/engine/infer/logitRow.ts";
import type { ScoreRequest } from "../../../src/engine/infer/servedModel.ts";
import { CodedError } from "../../../src/ops/errors.ts";

const vocab = 11;
const never = new AbortController().signal;

interface TableDecoder extends BatchDecoder {
  open: number;
  readonly steps: StepPart[][];
}

/** A model whose logits depend on the whole context. */
function tableDecoder(vocabSize = vocab): TableDecoder {
  const held = new Map<Context, number[]>();
  const decoder: TableDecoder = {
    ...{ maxLength: 4000, vocabSize, open: 0, steps: [] },
    start(capacity) {
      decoder.open++;
      const context: Context = {
        get length() {
          return held.get(context)?.length ?? 0;
        },
        get room() {
          return capacity;
        },
        fork: () => assert.fail("scoring forks nothing"),
        truncate: (length) => void held.set(context, (held.get(context) ?? []).slice(0, length)),
        close: () => void (held.delete(context) && decoder.open--),
      };
      held.set(context, []);
      assert.ok(capacity > 0);
      return context;
    },
    step(parts) {
      decoder.steps.push([...parts]);
      assert.equal(new Set(parts.map(({ context }) => context)).size, parts.length, "contexts differ");
      const rows = parts.flatMap(({ context, ids, rows: wanted }) => {
        const before = held.get(context);
        assert.ok(before && ids.length > 0 && wanted <= ids.length);
        return ids.flatMap((id, i) => {
          before.push(id);
          return i >= ids.length - wanted ? [rowAfter(before, vocabSize)] : [];
        });
      });
      return Promise.resolve(rowsOf(Float32Array.from(rows.flat()), vocabSize));
    },
  };
  return decoder;
}

function rowAfter(context: readonly number[], vocabSize: number): number[] {
  const best = (context.reduce((sum, id) => sum + id, 0) + context.length) % vocabSize;
  return Array.from({ length: vocabSize }, (_, id) => (id === best ? 3 : ((id * 7 + context.length) % 5) / 2));
}

function greedyAfter(context: readonly number[]): number {
  const row = rowAfter(context, vocab);
  return row.indexOf(Math.max(...row));
}

/** The same by the definition, request by request. */
function expected({ ids, start }: ScoreRequest): { logLikelihood: number; isGreedy: boolean } {
  let logLikelihood = 0;
  let isGreedy = true;
  for (let i = start; i < ids.length; i++) {
    const row = rowAfter(ids.slice(0, i), vocab);
    logLikelihood += row[ids[i]!]! - Math.log(row.reduce((sum, x) => sum + Math.exp(x), 0));
    isGreedy &&= row.indexOf(Math.max(...row)) === ids[i];
  }
  return { logLikelihood, isGreedy };
}

const idsOf = (length: number, seed: number): number[] =>
  Array.from({ length }, (_, i) => (seed * 131 + i * 37 + i * i) % vocab);

/** Questions with choices, single requests, windows, in lengths that fall on all sides of a step. */
function manyRequests(): ScoreRequest[] {
  const questions = Array.from({ length: 40 }, (_, q) => {
    const context = idsOf(5 + ((q * 17) % 90), q);
    return Array.from({ length: 1 + (q % 5) }, (_, choice) => {
      return { ids: [...context, ...idsOf(1 + ((q + choice) % 7), q + choice)], start: context.length };
    });
  });
  const long = idsOf(3 * scoreStepTokens, 1);
  return [
    ...questions.flat(),
    { ids: long, start: 1 },
    { ids: [...long, 3], start: long.length },
    { ids: [...long, 4, 5], start: long.length },
    { ids: [7], start: 1 },
    { ids: [7, 8], start: 1 },
    { ids: [7, 8], start: 2 },
  ];
}

test("a score sums the continuation's log-probabilities and knows whether each was the argmax", async () => {
  const context = [1, 2];
  const greedy = greedyAfter(context);
  const after = greedyAfter([...context, greedy]);
  const requests = [
    { ids: [...context, greedy, after], start: 2 },
    { ids: [...context, greedy, (after + 1) % vocab], start: 2 },
    { ids: [5, 6, 7], start: 1 },
  ];
  const results = await score(tableDecoder(), requests, never);
  assert.deepEqual(
    results.map(({ isGreedy }) => isGreedy),
    [true, false, false],
  );
  results.forEach(({ logLikelihood }, i) => {
    assert.ok(Math.abs(logLikelihood - expected(requests[i]!).logLikelihood) < 1e-5);
  });
});

test("many requests together get what each gets alone, in any order", async () => {
  const requests = manyRequests();
  const decoder = tableDecoder();
  const together = await score(decoder, requests, never);
  assert.equal(decoder.open, 0);
  for (const [i, request] of requests.entries()) {
    const { logLikelihood, isGreedy } = expected(request);
    assert.ok(Math.abs(together[i]!.logLikelihood - logLikelihood) < 1e-3, `request ${i}`);
    assert.equal(together[i]!.isGreedy, isGreedy);
    assert.deepEqual(await score(tableDecoder(), [request], never), [together[i]], "alone");
  }
  const order = requests.map((_, i) => (i * 29) % requests.length);
  const shuffled = await score(
    tableDecoder(),
    order.map((i) => requests[i]!),
    never,
  );
  assert.deepEqual(
    shuffled,
    order.map((i) => together[i]),
  );
});

test("the choices of a question share its context, which is computed once; steps hold many questions", async () => {
  const contexts = Array.from({ length: 8 }, (_, q) => idsOf(30, q));
  const requests = contexts.flatMap((context) => [1, 2, 3, 4].map((id) => ({ ids: [...context, id, id], start: 30 })));
  const decoder = tableDecoder();
  await score(decoder, requests, never);
  const tokens = decoder.steps.flat().reduce((sum, { ids }) => sum + ids.length, 0);
  assert.equal(tokens, 8 * (29 + 4 * 2), "each context once, and two inputs a choice");
  assert.equal(decoder.steps.length, 1 + 4);
  const rows = decoder.steps.flat().reduce((sum, part) => sum + part.rows, 0);
  assert.equal(rows, 8 * 4 * 2, "logits of the continuations only");
});

test("requests that differ before their continuations share what they have in common", async () => {
  const beginning = idsOf(40, 3);
  const requests = [
    [1, 2],
    [3, 4, 5],
  ].map((name) => ({ ids: [...beginning, ...name, 6, 7], start: 40 + name.length }));
  const decoder = tableDecoder();
  const results = await score(decoder, requests, never);
  results.forEach((result, i) =>
    assert.ok(Math.abs(result.logLikelihood - expected(requests[i]!).logLikelihood) < 1e-5),
  );
  const tokens = decoder.steps.flat().reduce((sum, { ids }) => sum + ids.length, 0);
  assert.equal(tokens, 40 + 3 + 4);
});

test("a step has no more tokens and no more logits than it may, for any vocabulary", async () => {
  for (const size of [11, 32_000, 300_000]) {
    const decoder = tableDecoder(size);
    const requests = Array.from({ length: size > 100_000 ? 2 : 6 }, (_, i) => ({ ids: idsOf(60, i), start: 55 }));
    await score(decoder, requests, never);
    for (const parts of decoder.steps) {
      const rows = parts.reduce((sum, part) => sum + part.rows, 0);
      assert.ok(parts.reduce((sum, { ids }) => sum + ids.length, 0) <= scoreStepTokens);
      assert.ok(rows * size <= maxStepLogits || rows === 1);
    }
  }
});

test("a cancelled score ends with its caches given back, and bad requests are refused by number", async () => {
  const decoder = tableDecoder();
  const controller = new AbortController();
  const { step } = decoder;
  decoder.step = (parts) => {
    controller.abort();
    return step(parts);
  };
  const coded = (code: string, message: RegExp) => (error: unknown) =>
    error instanceof CodedError && error.code === code && message.test(error.message);
  await assert.rejects(score(decoder, manyRequests(), controller.signal), coded("cancelled", /./));
  assert.equal(decoder.open, 0);
  const refused = (request: ScoreRequest) => score(tableDecoder(), [{ ids: [1, 2], start: 1 }, request], never);
  await assert.rejects(
    refused({ ids: [1], start: 0 }),
    coded("invalid_request", /request 1: start is 0; wanted 1 to 1/),
  );
  await assert.rejects(refused({ ids: idsOf(4002, 1), start: 1 }), coded("invalid_request", /at most 4001/));
  await assert.rejects(refused({ ids: [1, vocab], start: 1 }), coded("invalid_request", /token 1 is 11/));
});

test("logits that are not finite are an error", async () => {
  const decoder = tableDecoder();
  decoder.step = (parts) =>
    Promise.resolve(rowsOf(new Float32Array(parts.reduce((sum, { rows }) => sum + rows, 0) * vocab).fill(NaN), vocab));
  // The table counts positions when it steps; this one does not, so the first logits it gives must end it.
  await assert.rejects(
    score(
      {
        ...decoder,
        start: () => ({ ...tableDecoder().start(9), length: 0, truncate: () => undefined, close: () => undefined }),
      },
      [{ ids: [1, 2], start: 1 }],
      never,
    ),
    (error: unknown) => error instanceof CodedError && error.code === "diverged",
  );
});

/** Several choices of a prompt that is scored: what is asked of the model, in which order, and what ends it. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { scoredOnce } from "../../../src/api/routes/inferenceScores.ts";
import type { GenerateEvent, GenerateRequest } from "../../../src/engine/infer/servedModel.ts";
import { CodedError } from "../../../src/ops/errors.ts";

const request: GenerateRequest = {
  ...{ promptIds: [1, 2, 3], maxTokens: 1, temperature: 0, topP: 1, seed: 0, stopIds: [] },
  ...{ logprobs: 0, echo: true },
};
const scores: GenerateEvent = { type: "prompt", logprobs: [null, { token: 2, logprob: -1, top: [] }] };
const token: GenerateEvent = { type: "token", id: 7, logprobs: null };
const end: GenerateEvent = { type: "end", reason: "length", stopToken: null };

/** A model that notes what it is asked. */
function model(answer: (request: GenerateRequest) => AsyncGenerator<GenerateEvent>) {
  const asked: [GenerateRequest, number][] = [];
  const ask = (one: GenerateRequest, index: number) => {
    asked.push([one, index]);
    return answer(one);
  };
  return { asked, ask };
}

async function* whole({ echo }: GenerateRequest): AsyncGenerator<GenerateEvent> {
  if (echo) yield scores;
  yield token;
  yield end;
}

async function all(events: AsyncIterable<GenerateEvent>): Promise<GenerateEvent[]> {
  const seen: GenerateEvent[] = [];
  for await (const event of events) seen.push(event);
  return seen;
}
const code = (wanted: string) => (error: unknown) => error instanceof CodedError && error.code === wanted;

test("the first has the prompt scored, the others are told, and ask for what follows it without scores", async () => {
  const { asked, ask } = model(whole);
  const choice = scoredOnce(ask, 2);
  const runs = [0, 1, 2].map((index) => all(choice({ ...request, seed: index }, index)));
  for (const run of runs) assert.deepEqual(await run, [scores, token, end]);
  const unscored = { ...request, echo: false, promptIds: [2, 3] };
  assert.deepEqual(asked, [
    [request, 0],
    [{ ...unscored, seed: 1 }, 1],
    [{ ...unscored, seed: 2 }, 2],
  ]);
});

test("where nothing is to follow the others ask nothing", async () => {
  const { asked, ask } = model(whole);
  const choice = scoredOnce(ask, 8);
  const runs = [0, 1].map((index) => all(choice({ ...request, maxTokens: 0 }, index)));
  assert.deepEqual(await runs[1], [scores, end]);
  await runs[0];
  assert.equal(asked.length, 1);
});

test("without scores each choice asks for itself", async () => {
  for (const change of [{ echo: false }, { logprobs: null }]) {
    const { asked, ask } = model(whole);
    const choice = scoredOnce(ask, 8);
    for (const index of [0, 1]) await all(choice({ ...request, ...change }, index));
    assert.deepEqual(asked, [
      [{ ...request, ...change }, 0],
      [{ ...request, ...change }, 1],
    ]);
  }
});

test("the others fail as the first does, and do not wait for one that was given up", async () => {
  const failing = scoredOnce(async function* () {
    throw new CodedError("compute_crashed", "gone");
  }, 8);
  const runs = [0, 1].map((index) => all(failing(request, index)));
  for (const run of runs) await assert.rejects(run, code("compute_crashed"));

  const silent = scoredOnce(async function* () {
    yield { type: "cached", tokens: 1 } as const;
    yield scores;
  }, 8);
  const first = silent(request, 0)[Symbol.asyncIterator]();
  const second = all(silent(request, 1));
  await first.next();
  await first.return?.(undefined);
  await assert.rejects(second, code("cancelled"));
});

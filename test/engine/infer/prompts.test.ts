/** Prompts that begin alike, over a model that is a table: what is computed once, what is kept, and what goes. */
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { batching } from "../../../src/engine/infer/batcher.ts";
import { generate } from "../../../src/engine/infer/generate.ts";
import { SharedPrompts, leastShared } from "../../../src/engine/infer/prompts.ts";
import type { GenerateEvent, GenerateRequest } from "../../../src/engine/infer/servedModel.ts";
import { CodedError } from "../../../src/ops/errors.ts";
import { tableBatch } from "../../helpers/tableBatch.ts";
import type { TableBatch } from "../../helpers/tableBatch.ts";

const never = new AbortController().signal;
const range = (count: number, from = 0): number[] => Array.from({ length: count }, (_, i) => (from + i) % 7);

function served(positions: number, sharesPages = false): { table: TableBatch; prompts: SharedPrompts } {
  const table = tableBatch(7);
  const decoder = batching(table, { relieve: () => prompts.relieve() });
  const prompts = new SharedPrompts(decoder, { positions, sharesPages });
  return { table, prompts };
}

function plain(change: Partial<GenerateRequest>): GenerateRequest {
  const settings = { temperature: 1, topP: 1, seed: 0, stopIds: [], logprobs: 2, echo: false };
  return { promptIds: range(100), maxTokens: 4, ...settings, ...change };
}

interface Answer {
  readonly cached: number;
  readonly events: readonly GenerateEvent[];
}

async function ask(prompts: SharedPrompts, request: GenerateRequest, signal = never): Promise<Answer> {
  const events: GenerateEvent[] = [];
  let cached = 0;
  for await (const event of generate(prompts, request, signal)) {
    if (event.type === "cached") cached = event.tokens;
    else events.push(event);
  }
  return { cached, events };
}

/** What the request gets from a model that has seen nothing. */
const fresh = async (request: GenerateRequest) => (await ask(served(0).prompts, request)).events;
/** Ids computed in all steps. */
const computed = (table: TableBatch): number =>
  table.steps.flatMap((step) => [...step.values()]).reduce((sum, ids) => sum + ids.length, 0);
const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

test("choices of one prompt read it once, and each gets what it gets alone", async () => {
  const { table, prompts } = served(0);
  const requests = Array.from({ length: 8 }, (_, seed) => plain({ promptIds: range(700), seed }));
  const answers = await Promise.all(requests.map((request) => ask(prompts, request)));
  for (const [i, request] of requests.entries()) assert.deepEqual(answers[i]!.events, await fresh(request));
  assert.deepEqual(
    answers.map(({ cached }) => cached),
    [0, ...Array<number>(7).fill(699)],
  );
  // The prompt, its last token for each of the others, and three tokens of each answer.
  assert.equal(computed(table), 700 + 7 + 8 * 3);
  assert.equal(table.open, 0);
});

test("a prompt that begins as one being read waits for that much only, and reads the rest itself", async () => {
  const { table, prompts } = served(0);
  const long = ask(prompts, plain({ promptIds: range(2000) }));
  await turn();
  const own = [...range(300), ...range(50, 3)];
  const answer = await ask(prompts, plain({ promptIds: own }));
  assert.deepEqual(answer, { cached: 300, events: await fresh(plain({ promptIds: own })) });
  const steps = table.steps.length;
  await long;
  assert.ok(table.steps.length > steps, "the long one was not waited for to its end");
});

test("when the one that reads gives up, one of those that wait goes on, and the others wait for it", async () => {
  const { table, prompts } = served(0);
  const controller = new AbortController();
  const request = plain({ promptIds: range(900) });
  const first = ask(prompts, request, controller.signal);
  first.catch(() => undefined);
  await turn();
  const others = [1, 2, 3].map((seed) => ask(prompts, { ...request, seed }));
  while (table.steps.length < 2) await turn();
  controller.abort();
  await assert.rejects(first, (error) => error instanceof CodedError && error.code === "cancelled");
  for (const [i, answer] of (await Promise.all(others)).entries()) {
    assert.deepEqual(answer.events, await fresh({ ...request, seed: i + 1 }));
  }
  assert.ok(computed(table) < 2 * 900 + 50, `${computed(table)} ids`);
  assert.equal(table.open, 0);
});

test("one that waits may give up, and the one that reads does not notice", async () => {
  const { table, prompts } = served(0);
  const controller = new AbortController();
  const request = plain({ promptIds: range(900) });
  const first = ask(prompts, request);
  await turn();
  const second = ask(prompts, request, controller.signal);
  second.catch(() => undefined);
  await turn();
  controller.abort();
  await assert.rejects(second, (error) => error instanceof CodedError && error.code === "cancelled");
  assert.deepEqual((await first).events, await fresh(request));
  assert.equal(table.open, 0);
});

test("what an ended request has computed, answer included, is the beginning of the next", async () => {
  const { table, prompts } = served(10_000);
  const first = await ask(prompts, plain({}));
  const answer = first.events.flatMap((event) => (event.type === "token" ? [event.id] : []));
  const next = plain({ promptIds: [...range(100), ...answer, 1, 2, 3] });
  // The last token of an answer is never computed.
  assert.deepEqual(await ask(prompts, next), { cached: 103, events: await fresh(next) });
  const other = plain({ promptIds: [...range(60), 6, ...range(30, 2)] });
  assert.deepEqual(await ask(prompts, other), { cached: 60, events: await fresh(other) });
  prompts.close();
  assert.equal(table.open, 0);
});

test("one id that differs ends what is shared, and short beginnings are not looked for", async () => {
  const { prompts } = served(10_000);
  await ask(prompts, plain({}));
  assert.equal((await ask(prompts, plain({ promptIds: [6, ...range(99, 1)] }))).cached, 0);
  assert.equal((await ask(prompts, plain({ promptIds: [...range(leastShared - 1), 6, 6] }))).cached, 0);
  assert.equal((await ask(prompts, plain({ promptIds: [...range(leastShared), 6, 6] }))).cached, leastShared);
});

test("a prompt whose own log-probabilities are wanted is computed whole, and is there for others", async () => {
  const { prompts } = served(10_000);
  await ask(prompts, plain({}));
  const echoed = plain({ echo: true });
  assert.deepEqual(await ask(prompts, echoed), { cached: 0, events: await fresh(echoed) });
  const longer = plain({ promptIds: range(140), echo: true, maxTokens: 0 });
  await ask(prompts, longer);
  assert.equal((await ask(prompts, plain({ promptIds: range(140) }))).cached, 139);
});

test("positions of those at work and of those kept stay within the budget; the one used longest ago goes", async () => {
  const { table, prompts } = served(512);
  // 128 positions each, room for four.
  const request = (from: number) => plain({ promptIds: range(100, from) });
  for (const from of [0, 1, 2]) await ask(prompts, request(from));
  assert.equal(table.held, 3 * 128);
  assert.equal((await ask(prompts, request(0))).cached, 99, "used again: 1 is the oldest now");
  await ask(prompts, request(3));
  await ask(prompts, request(4));
  assert.ok(table.held <= 512);
  for (const [from, cached] of [
    [0, 99],
    [4, 99],
    [1, 0],
  ] as const) {
    assert.equal((await ask(prompts, request(from))).cached, cached, `prompt ${from}`);
  }
  // One that needs all of it gets all of it.
  let most = 0;
  const watch = setInterval(() => (most = Math.max(most, table.held)));
  const all = plain({ promptIds: range(500, 5), maxTokens: 12 });
  assert.deepEqual((await ask(prompts, all)).events, await fresh(all));
  clearInterval(watch);
  assert.ok(most <= 512, `${most} positions`);
});

test("what is kept is given up when a step finds no memory", async () => {
  const { table, prompts } = served(10_000);
  await ask(prompts, plain({}));
  table.hasRoom = () => table.open === 1;
  const other = plain({ promptIds: range(90, 3) });
  assert.deepEqual((await ask(prompts, other)).events, await fresh(other));
});

test("a beginning of what is kept is not kept beside it", async () => {
  const { table, prompts } = served(10_000);
  for (const length of [100, 300, 200]) await ask(prompts, plain({ promptIds: range(length), maxTokens: 1 }));
  assert.equal(table.open, 1);
});

test("whatever is asked, in whatever company and order, is answered as by a model that has seen nothing", async () => {
  const one = fc.record({
    shared: fc.nat(150),
    own: fc.array(fc.nat(6), { minLength: 1, maxLength: 40 }),
    seed: fc.nat(5),
    echo: fc.boolean(),
    leave: fc.boolean(),
    pause: fc.nat(6),
  });
  await fc.assert(
    fc.asyncProperty(
      fc.array(one, { minLength: 1, maxLength: 12 }),
      fc.nat(1500),
      fc.boolean(),
      async (all, ...how) => {
        const [positions] = how;
        const { table, prompts } = served(...how);
        await Promise.all(
          all.map(async ({ shared, own, seed, echo, leave, pause }) => {
            const request = plain({ promptIds: [...range(shared), ...own], seed, echo });
            for (let i = 0; i < pause; i++) await turn();
            const controller = new AbortController();
            if (leave) setTimeout(() => controller.abort(), pause);
            const answer = ask(prompts, request, controller.signal);
            const outcome = await answer.catch((error: unknown) => error);
            if (leave && outcome instanceof CodedError) return;
            assert.deepEqual((outcome as Answer).events, await fresh(request));
          }),
        );
        assert.ok(table.held <= positions, `${table.held} of ${positions} positions kept`);
        prompts.close();
        assert.equal(table.open, 0);
      },
    ),
    { numRuns: 60, seed: 11 },
  );
});

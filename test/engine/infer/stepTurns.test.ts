/** Steps of several who do not know of each other: nobody reads rows that another's step has written over. */
import assert from "node:assert/strict";
import { after, describe, test } from "node:test";
import { activateTfjs } from "../../../src/engine/backends/tfjsRuntime.ts";
import type { BatchDecoder } from "../../../src/engine/infer/decoder.ts";
import { loadServedModel } from "../../../src/engine/infer/loadServedModel.ts";
import { LogitRow } from "../../../src/engine/infer/logitRow.ts";
import type { GenerateEvent, ServedModel } from "../../../src/engine/infer/servedModel.ts";
import { takingTurns } from "../../../src/engine/infer/stepTurns.ts";
import { kernelsFor } from "../../../src/engine/kernels/index.ts";
import { tinyCheckpoint } from "../../helpers/tinyCheckpoint.ts";

const never = new AbortController().signal;
const tiny = tinyCheckpoint({ config: { vocabSize: 260, maxPositionEmbeddings: 128, eosTokenIds: [] } });
after(() => tiny.remove());

/** A decoder whose rows all lie in one place, as those of shared memory do. */
function onePlace(fail: (id: number) => boolean = () => false): BatchDecoder {
  const row = new Float32Array(1);
  return {
    ...{ maxLength: 9, vocabSize: 1, start: () => assert.fail("no context is needed") },
    async step([part]) {
      if (fail(part!.ids[0]!)) throw new RangeError(`step ${part!.ids[0]}`);
      row[0] = part!.ids[0]!;
      return [new LogitRow(row)];
    },
  };
}

const partOf = (id: number) => [{ context: null as never, ids: [id], rows: 1 }];

test("rows of a step are there until the end of its turn, in the order asked; a failing step holds up nobody", async () => {
  const decoder = takingTurns(onePlace((id) => id === 2));
  const read: (number | string)[] = [];
  const ask = async (id: number): Promise<void> => {
    try {
      const [row] = await decoder.step(partOf(id));
      await Promise.resolve();
      read.push(row!.logits[0]!);
    } catch (error) {
      read.push((error as Error).message);
    }
  };
  await Promise.all([1, 2, 3, 4].map(ask));
  assert.deepEqual(read, [1, "step 2", 3, 4]);
});

describe("one model on shared memory", () => {
  const ids = (seed: number, length: number): number[] =>
    Array.from({ length }, (_, i) => (seed * 131 + i * 37 + i * i) % 260);
  const scored = Array.from({ length: 24 }, (_, i) => ({ ids: ids(i, 8 + ((i * 5) % 40)), start: 4 }));
  const lists = [scored.slice(0, 9), scored.slice(9, 10), scored.slice(10)];

  async function generated(model: ServedModel, seed: number): Promise<GenerateEvent[]> {
    const request = { promptIds: ids(seed, 12), maxTokens: 24, temperature: 1, topP: 0.9, seed, stopIds: [] };
    const events: GenerateEvent[] = [];
    for await (const event of model.generate({ ...request, logprobs: 2, echo: false }, never)) events.push(event);
    return events;
  }

  for (const threads of [1, 2]) {
    test(`scorings and generations at once get what each gets alone (${threads} threads)`, async () => {
      await activateTfjs("wasm");
      const { kernels } = await kernelsFor("wasm");
      const model = await loadServedModel(tiny.checkpoint, kernels, { threads });
      try {
        const alone = [];
        for (const list of lists) alone.push(await model.score(list, never));
        const texts = [await generated(model, 1), await generated(model, 2)];
        const together = await Promise.all([
          ...lists.map((list) => model.score(list, never)),
          generated(model, 1),
          generated(model, 2),
        ]);
        assert.deepEqual(together, [...alone, ...texts]);
      } finally {
        model.close();
      }
    });
  }
});

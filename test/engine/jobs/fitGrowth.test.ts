/** A learned growth as a job: queued, fitted in a compute process, paused and resumed, charged and handed over. */
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { CodedError } from "../../../src/ops/errors.ts";
import type { JsonObject } from "../../../src/ops/manifest.ts";
import type { GrowthRequest } from "../../../src/engine/jobs/requests.ts";
import { importOf, openTestBed, type TestBed } from "./harness.ts";

const fitted = {
  dataset: "words",
  fit_steps: 3,
  batch_tokens: 64,
  sequence_length: 16,
  learning_rate: 0.01,
  backend: "wasm",
};

function growthOf(params: JsonObject, more: Partial<GrowthRequest> = {}): GrowthRequest {
  return { checkpoint: "base", operator: "learn", axis: "depth", factor: 2, params, ...more };
}

describe("a learned growth", () => {
  let bed: TestBed;
  before(async () => {
    bed = await openTestBed({});
    const { queue } = bed.services;
    await bed.until((await queue.submit("checkpoint_import", importOf("", "base"))).id, "succeeded");
    const text = Array.from({ length: 40 }, (_, line) => `line ${line} says that ${line % 7} is not ${line % 5}`);
    const job = await queue.submit("dataset_build", {
      name: "words",
      source: { type: "text", text },
      tokenizer: "bytes",
      validation_fraction: 0.1,
    });
    await bed.until(job.id, "succeeded");
  });
  after(() => bed.dispose());

  test("is fitted with the events of a training, charged for it at the target's size, and gives one new blob", async () => {
    const { queue, store } = bed.services;
    const job = await queue.submit("growth", growthOf(fitted, { name: "learned" }));
    const row = await bed.until(job.id, "succeeded");
    assert.equal(row.backend, "wasm");
    const base = await store.checkpoints.get("base");
    const grown = await store.checkpoints.get("learned");
    const dataset = await store.datasets.get("words");
    assert.equal(grown.manifest.config.numHiddenLayers, 4);
    const parameters = grown.manifest.tensors.reduce((sum, { shape }) => sum + shape.reduce((a, b) => a * b, 1), 0);
    assert.equal(grown.tokensSeen, base.tokensSeen + 192);
    assert.equal(grown.flopsSpent, base.flopsSpent + 6 * parameters * 192);
    assert.equal(grown.dataSeen[dataset.id], 192);
    const blobs = new Set(grown.manifest.tensors.map(({ blob }) => blob));
    const old = new Set(base.manifest.tensors.map(({ blob }) => blob));
    assert.equal([...blobs].filter((blob) => !old.has(blob)).length, 1);
    const embedding = (row_: typeof base) =>
      row_.manifest.tensors.find(({ name }) => name === "model.embed_tokens.weight")!;
    assert.deepEqual(embedding(grown), embedding(base), "what depth growth does not touch is shared");
    const fit = (grown.receipt as JsonObject)["fit"] as JsonObject;
    assert.deepEqual([fit["steps"], fit["tokens"], fit["backend"], fit["dataset"]], [3, 192, "wasm", dataset.id]);
    assert.ok(Number(fit["train_loss"]) > 0 && Number(fit["validation_loss"]) > 0);
    const events = await store.jobs.events(job.id, { after: 0, limit: 1000 });
    const kinds = new Set(events.map(({ type }) => type));
    assert.ok(kinds.has("metrics") && kinds.has("progress"), [...kinds].join(" "));
    // The same request gives the same bytes.
    const again = await bed.until((await queue.submit("growth", growthOf(fitted))).id, "succeeded");
    const id = (again.result as JsonObject)["checkpoint"] as string;
    assert.equal((await store.checkpoints.get(id)).digest, grown.digest);
  });

  test("paused in the middle and resumed, it ends with the bytes of one that was never stopped", async () => {
    const { queue, store } = bed.services;
    const long = { ...fitted, fit_steps: 200, batch_tokens: 256 };
    const whole = await bed.until((await queue.submit("growth", growthOf(long))).id, "succeeded");
    const job = await queue.submit("growth", growthOf(long));
    await bed.until(job.id, "running");
    const deadline = Date.now() + 30_000;
    for (;;) {
      const events = await store.jobs.events(job.id, { after: 0, limit: 1000 });
      if (events.some(({ type }) => type === "metrics")) break;
      assert.ok(Date.now() < deadline, "no update was told");
      await store.jobs.changed(job.id, 100);
    }
    await queue.pause(job.id);
    const paused = await bed.until(job.id, "paused");
    assert.ok(
      paused.resume !== null && paused.resume.step > 0 && paused.resume.step < 200,
      String(paused.resume?.step),
    );
    await queue.resume(job.id);
    const row = await bed.until(job.id, "succeeded");
    const digestOf = async (result: unknown): Promise<string> =>
      (await store.checkpoints.get((result as JsonObject)["checkpoint"] as string)).digest;
    assert.equal(await digestOf(row.result), await digestOf(whole.result));
  });

  test("without steps it is G_stack's checkpoint, and needs no data", async () => {
    const { queue, store } = bed.services;
    const learned = await bed.until((await queue.submit("growth", growthOf({ fit_steps: 0 }))).id, "succeeded");
    const stacked = await bed.until(
      (await queue.submit("growth", { checkpoint: "base", operator: "direct", axis: "depth", factor: 2 })).id,
      "succeeded",
    );
    const [one, two] = await Promise.all(
      [learned, stacked].map(({ result }) => store.checkpoints.get((result as JsonObject)["checkpoint"] as string)),
    );
    assert.equal(one!.digest, two!.digest);
    assert.equal(one!.storedBytes, 0);
    assert.equal((one!.receipt as JsonObject)["fit"], undefined);
  });

  test("data that is missing, unknown or too short, and an unknown backend, are refused by field before anything runs", async () => {
    const { queue } = bed.services;
    const refused = (params: JsonObject, code: string, pointer: string): Promise<void> =>
      assert.rejects(
        queue.submit("growth", growthOf(params)),
        (error) => error instanceof CodedError && error.code === code && error.fields[0]?.pointer === pointer,
      );
    const { dataset: _given, ...without } = fitted;
    await refused(without, "unprocessable", "/params/dataset");
    await refused({ ...fitted, dataset: "nobody" }, "not_found", "/params/dataset");
    await refused({ ...fitted, sequence_length: 65, batch_tokens: 65 }, "unprocessable", "/params/sequence_length");
    await refused({ ...fitted, backend: "abacus" }, "backend_unavailable", "/params/backend");
  });
});

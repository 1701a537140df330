/**
 * One number for one document: the log-likelihoods that an evaluation logs are, to the last bit, the sums that
 * /v1/completions gives for the same ids, asked for one by one or together, in any order; on each backend.
 */
import assert from "node:assert/strict";
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { getBackend } from "../../../src/engine/backends/index.ts";
import { createModelPool } from "../../../src/engine/serving/pool.ts";
import type { ModelPool } from "../../../src/engine/serving/types.ts";
import { startHarness, tinySource, type Harness } from "../helpers/harness.ts";

const docs = [
  { goal: "Go on", sol1: "left", sol2: "right, then left again", label: 0 },
  { goal: "Open a can", sol1: "with a spoon", sol2: "x", label: 1 },
  { goal: "Go on and on", sol1: "a", sol2: "b", label: 1 },
];
const encode = (text: string): number[] => [...Buffer.from(text)];
/** Of each choice of each doc: what the harness sends to a completions API, and where the choice begins. */
const requests = docs.flatMap(({ goal, sol1, sol2 }) => {
  const context = encode(`Question: ${goal}\nAnswer:`);
  return [sol1, sol2].map((choice) => ({ ids: [...context, ...encode(` ${choice}`)], start: context.length }));
});
/** Between backends, as sums of float32 in another order differ. */
const tolerance = 1e-3;
const measured = new Map<string, number[]>();

describe("one number for one document", () => {
  let api: Harness;
  /** Serves completions on the backend under test. */
  let pool: ModelPool;

  before(async () => {
    const switching: ModelPool = {
      generate: (...asked) => pool.generate(...asked),
      warm: () => pool.warm(),
      drop: (ids) => pool.drop(ids),
      close: () => pool.close(),
    };
    api = await startHarness({ change: (deps) => ({ ...deps, pool: switching }) });
    mkdirSync(join(api.settings.benchmarksDir, "piqa"), { recursive: true });
    const lines = docs.map((doc) => JSON.stringify(doc)).join("\n");
    writeFileSync(join(api.settings.benchmarksDir, "piqa", "validation.jsonl"), lines);
    await api.work("/v1/checkpoints", { name: "base", source: tinySource });
  });
  after(() => api.close());

  /** @returns a sum for each of `asked`, in their order. */
  const completed = async (asked: typeof requests): Promise<number[]> => {
    const prompt = asked.map(({ ids }) => ids);
    const settings = { model: "base", max_tokens: 1, logprobs: 1, echo: true, temperature: 0, seed: 1234 };
    const { status, body } = await api.call("POST", "/v1/completions", { body: { ...settings, prompt } });
    assert.equal(status, 200, JSON.stringify(body));
    return asked.map(({ start }, i) =>
      body.choices[i].logprobs.token_logprobs.slice(start, -1).reduce((sum: number, value: number) => sum + value, 0),
    );
  };

  for (const backend of ["cpu", "wasm", "native", "webgpu"]) {
    test(`${backend}: evaluations and completions give the same bits, in any company and order`, async (t) => {
      const { available, reason } = await getBackend(backend).probe({ measure: backend === "webgpu" });
      if (!available) return t.skip(reason ?? "not available");
      pool = createModelPool({ backends: [backend] });
      t.after(() => pool.close());
      // Completions take a software GPU, which is what CI has, only where it is said.
      const software = process.env["WEBGPU_SOFTWARE"];
      process.env["WEBGPU_SOFTWARE"] = "auto";
      t.after(() => {
        if (software === undefined) delete process.env["WEBGPU_SOFTWARE"];
        else process.env["WEBGPU_SOFTWARE"] = software;
      });
      const request = { checkpoint: "base", tasks: ["piqa"], backend, bootstrap_iterations: 0 };
      const { result } = await api.work("/v1/evaluations", request);
      const evaluation = (await api.call("GET", `/v1/evaluations/${result.evaluation}`)).body;
      assert.equal(evaluation.results[0].settings.backend, backend);
      const { body } = await api.call("GET", `/v1/evaluations/${result.evaluation}/samples`);
      const logged: number[] = body.data.flatMap((sample: { log_likelihoods: number[] }) => sample.log_likelihoods);
      // Compared as bits: deepEqual of numbers is Object.is.
      assert.deepEqual(await completed(requests), logged);
      assert.deepEqual(await completed(requests.toReversed()), logged.toReversed());
      for (const [i, one] of requests.entries()) assert.deepEqual(await completed([one]), [logged[i]]);
      measured.set(backend, logged);
    });
  }

  test("between backends the numbers differ by float32's rounding, and native has those of wasm", () => {
    const wasm = measured.get("wasm");
    assert.ok(wasm);
    for (const [backend, logged] of measured) {
      const bound = ["cpu", "webgpu"].includes(backend) ? tolerance : 0;
      logged.forEach((value, i) => assert.ok(Math.abs(value - wasm[i]!) <= bound, `${backend}: ${value}, ${wasm[i]}`));
    }
  });
});

/** A GPU device that is lost in the middle of a training: the job is tried again on a fresh one, from its last resume point. */
import assert from "node:assert/strict";
import { rmSync } from "node:fs";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { runInChild } from "../../../src/engine/jobs/compute.ts";
import type { Handler } from "../../../src/engine/jobs/handler.ts";
import { handlers } from "../../../src/engine/jobs/handlers/index.ts";
import type { TrainingRequest } from "../../../src/engine/jobs/requests.ts";
import { computeEnvironment } from "../../../src/engine/settings.ts";
import { missingGpu } from "../../helpers/gpu.ts";
import { importOf, openTestBed, type TestBed } from "./harness.ts";

const entry = fileURLToPath(new URL("./lostDeviceChild.ts", import.meta.url));
const limits = {
  ...{ memoryBytes: 2 ** 32, threads: 1, silenceMs: 60_000, stopTimeoutMs: 10_000 },
  environment: computeEnvironment(),
};
const text = Array.from({ length: 40 }, (_, i) => `${i} green bottles hanging on the wall, and ${i + 1} more. `);
const steps = 24;
const request: TrainingRequest = {
  ...{ checkpoint: "base", dataset: "text", backend: "webgpu", tokens: steps * 64, batch_tokens: 64 },
  ...{ sequence_length: 32, save_every_tokens: 6 * 64, keep_optimizer_state: true },
};

async function digestOf({ services: { store } }: TestBed, id: string): Promise<string> {
  const { result } = await store.jobs.get(id);
  return (await store.checkpoints.get(String(result?.["checkpoint"]))).digest;
}

test(
  "a lost device costs an attempt, not the job: it ends with the bytes of a run that lost none",
  { skip: (await missingGpu()) ?? false },
  async (t) => {
    let losing = false;
    const attempts: (number | null)[] = [];
    const training: Handler<"training"> = (asked, context) => {
      attempts.push(context.job.resume?.step ?? null);
      if (!losing || attempts.length > 1) return handlers.training(asked, context);
      const { signal } = context;
      return handlers.training(asked, { ...context, compute: (work) => runInChild(work, { limits, signal, entry }) });
    };
    const bed = await openTestBed({ handlers: { training } });
    t.after(() => bed.dispose().finally(() => rmSync(bed.dataDir, { recursive: true, force: true })));
    const { queue, store } = bed.services;
    await bed.until((await queue.submit("checkpoint_import", importOf("", "base"))).id, "succeeded");
    const dataset = { name: "text", source: { type: "text" as const, text }, tokenizer: "bytes" as const };
    await bed.until((await queue.submit("dataset_build", dataset)).id, "succeeded");
    const whole = await bed.until((await queue.submit("training", request)).id, "succeeded");
    assert.equal(whole.backend, "webgpu");
    assert.equal(whole.attempts, 1);

    losing = true;
    attempts.length = 0;
    const job = await bed.until((await queue.submit("training", request)).id, "succeeded");
    assert.equal(job.attempts, 2);
    assert.equal(attempts[0], null);
    // Resume points come after some tokens, or sooner where these take long.
    assert.ok(attempts[1]! >= 1 && attempts[1]! < steps, `it went on after step ${attempts[1]}`);
    const events = await store.jobs.events(job.id, { after: 0, limit: 1_000, type: "status" });
    assert.ok(events.some(({ data }) => /the GPU device was lost/.test(JSON.stringify(data))));
    const curve = await store.jobs.metrics(job.id);
    assert.deepEqual(
      curve.map(({ step }) => step),
      Array.from({ length: steps }, (_, i) => i + 1),
    );
    assert.equal(await digestOf(bed, job.id), await digestOf(bed, whole.id));
  },
);

/** An evaluation whose compute process is killed with -9 goes on with the docs it has kept, and ends with the same bits. */
import assert from "node:assert/strict";
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { blobPath } from "../../../src/engine/checkpoint/blobs.ts";
import type { EvaluationRequest } from "../../../src/engine/jobs/requests.ts";
import { importOf, openTestBed, type TestBed } from "./harness.ts";

/** Plain JavaScript: slow enough to be killed in the middle on any machine. */
const request: EvaluationRequest = { checkpoint: "base", tasks: ["piqa"], backend: "cpu", bootstrap_iterations: 0 };
const numDocs = 800;
const childrenFile = `/proc/${process.pid}/task/${process.pid}/children`;

describe("an evaluation", { skip: existsSync(childrenFile) ? false : "no list of child processes" }, () => {
  let bed: TestBed;
  before(async () => {
    bed = await openTestBed({});
    const folder = join(bed.dataDir, "benchmarks", "piqa");
    mkdirSync(folder, { recursive: true });
    const docs = Array.from({ length: numDocs }, (_, i) => {
      return { goal: `Open can ${i}`, sol1: `with a spoon ${i}`, sol2: "gently", label: i % 2 };
    });
    writeFileSync(join(folder, "validation.jsonl"), docs.map((doc) => JSON.stringify(doc)).join("\n"));
    await bed.until((await bed.services.queue.submit("checkpoint_import", importOf("", "base"))).id);
  });
  after(() => bed.dispose().finally(() => rmSync(bed.dataDir, { recursive: true, force: true })));

  /** The log of samples that the job's evaluation has, as text. */
  async function samplesOf(job: string): Promise<string> {
    const { store } = bed.services;
    const row = await store.evaluations.get(String((await store.jobs.get(job)).result?.["evaluation"]));
    return readFileSync(blobPath(join(bed.dataDir, "blobs"), row.results[0]?.samples?.digest ?? ""), "utf8");
  }

  test("killed in the middle, asks the model about the rest only, and logs what it would have logged", async () => {
    const { queue, store } = bed.services;
    const { id } = await queue.submit("evaluation", request);
    const deadline = Date.now() + 60_000;
    while ((await store.work.parts(id)).length === 0) {
      const { status, error } = await store.jobs.get(id);
      assert.ok(status === "queued" || status === "running", `${status}: ${JSON.stringify(error)}`);
      assert.ok(Date.now() < deadline, "nothing kept in time");
      await store.jobs.changed(id, 100);
    }
    const [compute] = readFileSync(childrenFile, "utf8").split(" ").filter(Boolean).map(Number);
    assert.ok(compute);
    process.kill(compute, "SIGKILL");
    const row = await bed.until(id, "succeeded");
    assert.equal(row.attempts, 2);
    const progress = await store.jobs.events(id, { after: 0, limit: 1_000, type: "progress" });
    const messages = progress.map(({ data }) => String((data as { message?: string }).message));
    assert.ok(
      messages.some((message) => /piqa: [1-9][0-9]* of 800 docs were scored before/.test(message)),
      messages.join("\n"),
    );
    assert.deepEqual(await store.work.parts(id), [], "what was kept goes with the job");
    const again = await queue.submit("evaluation", request);
    await bed.until(again.id, "succeeded");
    assert.equal(await samplesOf(id), await samplesOf(again.id));
  });
});

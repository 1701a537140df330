/**
 * Trainings that are stopped anywhere (pause, kill -9 of the compute process, of a worker, of the embedded
 * server) go on by themselves and end with the bytes of a training that was never stopped, once.
 */
import assert from "node:assert/strict";
import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { existsSync, readFileSync, rmSync } from "node:fs";
import { after, before, describe, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import type { TrainingRequest } from "../../../src/engine/jobs/requests.ts";
import type { Services } from "../../../src/engine/services.ts";
import type { CheckpointRow } from "../../../src/engine/store/types.ts";
import { needsPostgres, startPostgres } from "../../helpers/postgres.ts";
import { temporaryFolder } from "../store/fixtures.ts";
import { importOf, openTestBed, testSettings, type TestBed } from "./harness.ts";
import { computeEnvironment } from "../../../src/engine/settings.ts";

/** So many that a stop asked for at the first resume point comes before the end, on the fastest machine too. */
const steps = 480;
const batchTokens = 256;
const published = 5;
const training: TrainingRequest = {
  ...{
    checkpoint: "base",
    dataset: "text",
    tokens: steps * batchTokens,
    batch_tokens: batchTokens,
    sequence_length: 64,
  },
  ...{ save_every_tokens: (steps / (published + 1)) * batchTokens, keep_optimizer_state: true, name: "trained" },
};
const text = Array.from({ length: 300 }, (_, i) =>
  `${i} bottles of beer on the wall, ${i} bottles of beer. `.repeat(5),
);

/** Makes the base and the data. */
async function prepare(bed: TestBed): Promise<void> {
  const { queue } = bed.services;
  await bed.until((await queue.submit("checkpoint_import", importOf("", "base"))).id);
  const dataset = {
    name: "text",
    source: { type: "text" as const, text },
    tokenizer: "bytes" as const,
    validation_fraction: 0.1,
  };
  await bed.until((await queue.submit("dataset_build", dataset)).id);
}

/** The digest that must come out, on whichever database; empty until somebody has trained without interruption. */
let digest = "";

/** Trains once without any interruption. @returns the digest */
async function trainedOnce(bed: TestBed): Promise<string> {
  const job = await bed.until((await bed.services.queue.submit("training", training)).id, "succeeded");
  return (await madeBy(bed.services, job.id)).final.digest;
}

/** What a training left behind: its last checkpoint and those it published on the way. */
async function madeBy({ store }: Services, job: string): Promise<{ final: CheckpointRow; others: CheckpointRow[] }> {
  const row = await store.jobs.get(job);
  const final = await store.checkpoints.get(String(row.result?.["checkpoint"]));
  const { rows } = await store.checkpoints.list({ limit: 100, parent: final.parents[0]!.checkpoint });
  return { final, others: rows.filter((other) => other.job === job && other.id !== final.id) };
}

/** The training ended as if nothing had happened: same bytes, nothing lost, nothing twice. */
async function assertSame(services: Services, job: string, digest: string): Promise<void> {
  const { final, others } = await madeBy(services, job);
  assert.equal(final.digest, digest);
  assert.equal(final.tokensSeen, steps * batchTokens);
  assert.deepEqual(
    others.map((row) => row.tokensSeen).sort((a, b) => a - b),
    [1, 2, 3, 4, 5].map((n) => (n * steps * batchTokens) / (published + 1)),
  );
  const curve = await services.store.jobs.metrics(job);
  assert.deepEqual(
    curve.map((point) => point.step),
    Array.from({ length: steps }, (_, i) => i + 1),
  );
}

/** Waits until the job has a resume point to go on from. */
async function untilSaved({ store }: Services, id: string): Promise<void> {
  const deadline = Date.now() + 30_000;
  for (;;) {
    const row = await store.jobs.get(id);
    if (row.resume !== null) return;
    assert.ok(row.status === "queued" || row.status === "running", `${row.status} ${JSON.stringify(row.error)}`);
    assert.ok(Date.now() < deadline, "no resume point in time");
    await store.jobs.changed(id, 50);
  }
}

function childrenOf(pid: number): number[] {
  return readFileSync(`/proc/${pid}/task/${pid}/children`, "utf8").split(" ").filter(Boolean).map(Number);
}

const hasChildren = existsSync(`/proc/${process.pid}/task/${process.pid}/children`);

async function killed(child: ChildProcess): Promise<void> {
  const gone = once(child, "exit");
  child.kill("SIGKILL");
  await gone;
}

describe("a training on the embedded database", () => {
  let bed: TestBed;
  before(async () => {
    bed = await openTestBed({});
    await prepare(bed);
    digest = await trainedOnce(bed);
  });
  after(() => bed.dispose().finally(() => rmSync(bed.dataDir, { recursive: true, force: true })));

  test("paused and resumed, ends with the same bytes", async () => {
    const { queue, store } = bed.services;
    const { id } = await queue.submit("training", training);
    await untilSaved(bed.services, id);
    await queue.pause(id);
    const paused = await bed.until(id, "paused");
    assert.ok(paused.resume !== null && paused.resume.step < steps);
    await sleep(300);
    assert.equal((await store.jobs.get(id)).status, "paused");
    await queue.resume(id);
    await bed.until(id, "succeeded");
    await assertSame(bed.services, id, digest);
  });

  test("whose compute process is killed with -9, ends with the same bytes", { skip: !hasChildren }, async () => {
    const { id } = await bed.services.queue.submit("training", training);
    await untilSaved(bed.services, id);
    const [compute] = childrenOf(process.pid);
    assert.ok(compute);
    process.kill(compute, "SIGKILL");
    const row = await bed.until(id, "succeeded");
    assert.equal(row.attempts, 2);
    await assertSame(bed.services, id, digest);
    const events = await bed.services.store.jobs.events(id, { after: 0, limit: 1_000, type: "status" });
    assert.ok(events.some(({ data }) => JSON.stringify(data).includes("killed by SIGKILL")));
  });

  test("cancelled, keeps what it published and none of its resume point", async () => {
    const { queue, store } = bed.services;
    const { id } = await queue.submit("training", training);
    // a resume point may come before the first that is published
    while ((await store.jobs.events(id, { after: 0, limit: 1, type: "checkpoint" })).length === 0) {
      await store.jobs.changed(id, 50);
    }
    await queue.cancel(id);
    const row = await bed.until(id, "cancelled");
    assert.equal(row.resume, null);
    assert.equal(row.result, null);
    assert.ok((await store.checkpoints.list({ limit: 100 })).rows.some((checkpoint) => checkpoint.job === id));
  });

  test("whose server is killed with -9, goes on in the next server and ends with the same bytes", async () => {
    await bed.services.close();
    const module = fileURLToPath(new URL("../../../src/engine/services.ts", import.meta.url));
    const script = `
      const { createServices } = await import(${JSON.stringify(module)});
      const settings = ${JSON.stringify({ ...testSettings(bed.dataDir, null), logLevel: "silent" })};
      const { queue, store } = await createServices(settings, { role: "server" });
      const { id } = await queue.submit("training", ${JSON.stringify(training)});
      while ((await store.jobs.get(id)).resume === null) await store.jobs.changed(id, 50);
      console.log(id);`;
    const server = spawn(process.execPath, ["--input-type=module", "-e", script], {
      stdio: ["ignore", "pipe", "inherit"],
    });
    const [chunk] = (await once(server.stdout!, "data")) as [Buffer];
    const id = chunk.toString().trim();
    await assert.rejects(openTestBed({ dataDir: bed.dataDir }), { code: "data_dir_locked" });
    await killed(server);
    bed = await openTestBed({ dataDir: bed.dataDir });
    const row = await bed.until(id, "succeeded");
    assert.equal(row.attempts, 2);
    await assertSame(bed.services, id, digest);
  });
});

describe("a training on PostgreSQL with two workers", needsPostgres(), () => {
  test("whose worker is killed with -9, is taken over and ends with the same bytes", async (t) => {
    const postgres = await startPostgres();
    const databaseUrl = await postgres.createDatabase();
    const dataDir = temporaryFolder();
    const bed = await openTestBed({ databaseUrl, dataDir });
    const workers: ChildProcess[] = [];
    t.after(async () => {
      await Promise.all(workers.filter((worker) => worker.exitCode === null && worker.signalCode === null).map(killed));
      await bed.services.close();
      await postgres.stop();
      rmSync(dataDir, { recursive: true, force: true });
    });
    const { queue, store, runner } = bed.services;
    const entry = fileURLToPath(new URL("../../../src/engine/worker.ts", import.meta.url));
    const environment = {
      // what a compute process inherits, for here it decides the bytes: the test compares with this process's own run
      ...computeEnvironment(),
      DATA_DIR: dataDir,
      DATABASE_URL: databaseUrl,
      WORKER_LOST_SECONDS: "6",
      LOG_LEVEL: "silent",
    };
    const options = { env: { ...environment, COMPUTE_THREADS: "1" }, stdio: ["ignore", "ignore", "inherit"] as const };
    for (let i = 0; i < 2; i++)
      workers.push(spawn(process.execPath, [entry], { ...options, stdio: [...options.stdio] }));
    await prepare(bed);
    if (digest === "") digest = await trainedOnce(bed);
    await runner?.close(); // from here on this process only submits
    while ((await store.workers.list()).length < 2) await sleep(100);
    const { id } = await queue.submit("training", training);
    await untilSaved(bed.services, id);
    const holder = (await store.jobs.get(id)).worker;
    const pid = (await store.workers.list()).find((worker) => worker.id === holder)?.pid;
    const victim = workers.find((worker) => worker.pid === pid);
    assert.ok(victim);
    await killed(victim);
    const killedAt = Date.now();
    const row = await bed.until(id, "succeeded");
    assert.equal(row.attempts, 2);
    const [, , again] = await store.jobs.events(id, { after: 0, limit: 100, type: "status" });
    const replacedAfterMs = (again?.createdAt.getTime() ?? Infinity) - killedAt;
    assert.ok(replacedAfterMs < 20_000, `replaced after ${replacedAfterMs} ms`);
    t.diagnostic(`replaced after ${replacedAfterMs} ms`);
    await assertSame(bed.services, id, digest);
  });
});

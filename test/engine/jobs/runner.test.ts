/** What queue and runner guarantee, on PGlite and on a real PostgreSQL alike; handlers are small fakes. */
import assert from "node:assert/strict";
import { rmSync } from "node:fs";
import { after, before, describe, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { CodedError } from "../../../src/ops/errors.ts";
import type { TrainingState } from "../../../src/ops/events.ts";
import type { ImportRequest } from "../../../src/engine/jobs/requests.ts";
import { openEntryQueue } from "../../../src/engine/jobs/entries.ts";
import type { Handler } from "../../../src/engine/jobs/handler.ts";
import { formatSelector, selectorOf } from "../../../src/engine/jobs/selector.ts";
import { createLog } from "../../../src/engine/log.ts";
import { fillDataDir } from "../../helpers/embeddedDatabase.ts";
import { openDatabase } from "../../../src/engine/store/client.ts";
import { createStore } from "../../../src/engine/store/store.ts";
import { needsPostgres, query, startPostgres, type TestPostgres } from "../../helpers/postgres.ts";
import { jobOf, temporaryFolder } from "../store/fixtures.ts";
import { importOf, openTestBed, type TestBed } from "./harness.ts";

let running = 0;
let mostRunning = 0;
const released = Promise.withResolvers<void>();

const resumePoint: TrainingState = {
  ...{ step: 0, tokens: 0, flops: 0, position: 0, lastLoss: null, lastValidationLoss: null, weights: [] },
  optimizer: { type: "adamw", step: 0, firstMoments: [], secondMoments: [] },
};

/** Does what the request's metadata says. */
const fakeImport: Handler<"checkpoint_import"> = async (request, context) => {
  const behaviour = request.metadata?.["behaviour"];
  running++;
  mostRunning = Math.max(mostRunning, running);
  try {
    if (behaviour === "bad input") throw new CodedError("checkpoint_corrupt", "the file lies");
    if (behaviour === "bug") throw new TypeError("secret detail");
    if (behaviour === "crashes") throw new CodedError("compute_crashed", "it died");
    if (behaviour === "crashes once" && context.job.attempts === 1) throw new CodedError("compute_crashed", "it died");
    if (behaviour === "finds the disk full") throw new CodedError("storage_full", "no space left");
    if (behaviour === "fills the disk") {
      if (context.job.attempts === 1) await context.save({ ...resumePoint, step: 7 }, [], null);
      if (context.job.attempts === 1) throw new CodedError("storage_full", "no space left");
      await context.report({ type: "log", level: "info", message: `goes on after ${context.job.resume?.step}` });
    }
    if (behaviour === "slow") await sleep(100);
    if (behaviour === "long") await sleep(1_000);
    if (behaviour === "held") await released.promise;
    if (behaviour === "waits" || (behaviour === "waits once" && context.job.attempts === 1)) {
      await sleep(60_000, undefined, { signal: context.signal });
    }
    await context.report({ type: "log", level: "info", message: "working" });
    for (let i = 1; i <= 100; i++) await context.report({ type: "progress", fraction: i / 100 });
    return { result: () => ({ attempt: context.job.attempts }) };
  } finally {
    running--;
  }
};

for (const kind of ["pglite", "postgres"] as const) {
  describe(`queue and runner on ${kind}`, kind === "postgres" ? needsPostgres() : {}, () => {
    let postgres: TestPostgres | null = null;
    let databaseUrl: string | null = null;
    let bed: TestBed;

    before(async () => {
      postgres = kind === "postgres" ? await startPostgres() : null;
      databaseUrl = postgres ? await postgres.createDatabase() : null;
      const environment = { JOB_MAX_ATTEMPTS: "3", PREPARE_CONCURRENCY: "2" };
      bed = await openTestBed({ databaseUrl, importHandler: fakeImport, environment });
    });
    after(async () => {
      await bed.dispose();
      rmSync(bed.dataDir, { recursive: true, force: true });
      await postgres?.stop();
    });
    const submit = (behaviour: string) => bed.services.queue.submit("checkpoint_import", importOf(behaviour));

    test("a job runs, and its events tell the story in order", async () => {
      const { id } = await submit("");
      const row = await bed.until(id, "succeeded");
      assert.deepEqual(row.result, { attempt: 1 });
      assert.equal(row.progress.fraction, 1);
      assert.ok(row.startedAt && row.finishedAt && row.createdAt <= row.startedAt && row.startedAt <= row.finishedAt);
      const events = await bed.services.store.jobs.events(id, { after: 0, limit: 100 });
      assert.deepEqual(
        events.map(({ type, data }) => (type === "status" ? (data as { status: string }).status : type)),
        [...["queued", "running", "log", "progress", "succeeded"]],
      );
    });

    test("an error about the input fails the job at once, with its message", async () => {
      const row = await bed.until((await submit("bad input")).id, "failed");
      assert.deepEqual(row.error, { code: "checkpoint_corrupt", message: "the file lies" });
      assert.equal(row.attempts, 1);
    });

    test("a full disk pauses a job at its resume point, from which it goes on; without one the job fails", async () => {
      const { id } = await submit("fills the disk");
      const paused = await bed.until(id, "paused");
      assert.deepEqual(paused.error, { code: "storage_full", message: "no space left" });
      assert.equal(paused.finishedAt, null);
      const queued = await bed.services.queue.resume(id);
      assert.equal(queued.error, null);
      const done = await bed.until(id, "succeeded");
      assert.deepEqual([done.attempts, done.error], [2, null]);
      const events = await bed.services.store.jobs.events(id, { after: 0, limit: 100 });
      const told = events.map(({ type, data }) => {
        const { status, error, message } = data as { status?: string; error?: { code: string }; message?: string };
        return type === "status" ? (error ? `${status} ${error.code}` : status) : message;
      });
      const story = ["queued", "running", "paused storage_full", "queued", "running", "goes on after 7"];
      assert.deepEqual(told.slice(0, 6), story);
      const early = await submit("finds the disk full");
      assert.equal((await bed.until(early.id, "failed")).error?.code, "storage_full");
    });

    test("a bug fails the job at once, and its text stays private", async () => {
      const row = await bed.until((await submit("bug")).id, "failed");
      assert.equal(row.error?.code, "internal");
      assert.ok(!JSON.stringify(row).includes("secret"));
    });

    test("a failure that may pass is tried again, as often as allowed", async () => {
      const passing = await bed.until((await submit("crashes once")).id, "succeeded");
      assert.equal(passing.attempts, 2);
      const failing = await bed.until((await submit("crashes")).id, "failed");
      assert.equal(failing.attempts, 3);
      assert.equal(failing.error?.code, "compute_crashed");
      const events = await bed.services.store.jobs.events(failing.id, { after: 0, limit: 100, type: "status" });
      const pauses = events
        .map((event) => (event.data as { retry_in_seconds?: number }).retry_in_seconds)
        .filter(Boolean);
      assert.deepEqual(pauses, [0.05, 0.1]);
    });

    test("a running job that is cancelled stops within a second", async () => {
      const { id } = await submit("waits");
      await bed.until(id, "running");
      const asked = Date.now();
      const row = await bed.services.queue.cancel(id);
      assert.equal(row.control, "cancel");
      await bed.until(id, "cancelled");
      assert.ok(Date.now() - asked < 2_000, `${Date.now() - asked} ms`);
      await assert.rejects(bed.services.queue.cancel(id), { code: "conflict" });
    });

    test("no more jobs run at once than allowed", async () => {
      mostRunning = 0;
      const jobs = await Promise.all(Array.from({ length: 6 }, () => submit("slow")));
      for (const { id } of jobs) await bed.until(id, "succeeded");
      assert.equal(mostRunning, 2);
    });

    test("a runner that closes gives its jobs back, and the next one finishes them", async () => {
      const { id } = await submit("waits once");
      await bed.until(id, "running");
      await bed.services.close();
      bed = await openTestBed({ databaseUrl, dataDir: bed.dataDir, importHandler: fakeImport });
      const row = await bed.until(id, "succeeded");
      assert.deepEqual(row.result, { attempt: 2 });
      const [worker] = await bed.services.store.workers.list();
      assert.equal(worker?.pid, process.pid);
    });

    test("a job outlives the loss of every database connection", { skip: kind === "pglite" }, async () => {
      const { id } = await submit("long");
      await bed.until(id, "running");
      const url = databaseUrl ?? "";
      const others = "select pg_terminate_backend(pid) from pg_stat_activity where pid <> pg_backend_pid()";
      const ended = await query(url, `${others} and datname = current_database()`);
      assert.ok(ended.length > 0);
      const deadline = Date.now() + 30_000;
      for (;;) {
        const row = await bed.services.store.jobs.get(id).catch(() => null);
        if (row?.status === "succeeded") break;
        assert.ok(Date.now() < deadline && row?.status !== "failed", JSON.stringify(row));
        await sleep(100);
      }
    });

    test("a runner that the queue gave up too early goes on with its job", { skip: kind === "pglite" }, async () => {
      const { id } = await submit("held");
      await bed.until(id, "running");
      const entry = `data->>'job' = '${id}'`;
      const silence = `update pgboss.job set heartbeat_on = now() - interval '1 hour' where ${entry} and retry_count = 0`;
      const again = `select 1 from pgboss.job where ${entry} and retry_count = 1 and state = 'active'`;
      const deadline = Date.now() + 30_000;
      while ((await query(databaseUrl ?? "", `${silence}; `), await query(databaseUrl ?? "", again)).length === 0) {
        assert.ok(Date.now() < deadline, "the queue did not deliver the entry again");
        await sleep(50);
      }
      released.resolve();
      const row = await bed.until(id, "succeeded");
      assert.equal(row.attempts, 1);
    });

    test("names become ids, and what does not exist is refused with a pointer", async () => {
      const { queue, store } = bed.services;
      const training = { checkpoint: "none", dataset: "none", tokens: 10, batch_tokens: 10, sequence_length: 10 };
      const points = (pointer: string) => (error: unknown) =>
        error instanceof CodedError && error.code === "not_found" && error.fields[0]?.pointer === pointer;
      await assert.rejects(queue.submit("training", training), points("/checkpoint"));
      const bytes = { name: "d", source: { type: "text", text: "x" }, tokenizer: { checkpoint: "none" } } as const;
      await assert.rejects(queue.submit("dataset_build", bytes), points("/tokenizer/checkpoint"));
      const upload: ImportRequest = { source: { type: "upload", upload: ["../../etc/passwd"] } };
      await assert.rejects(queue.submit("checkpoint_import", upload), points("/source/upload/0"));
      const outside = { source: { type: "directory", path: "/etc" } } as const;
      await assert.rejects(queue.submit("checkpoint_import", outside), { code: "forbidden" });
      const config = { source: { type: "random", config: { hidden_size: -1 } } } as const;
      await assert.rejects(
        queue.submit("checkpoint_import", config),
        (error: CodedError) => error.fields[0]?.pointer === "/source/config/model_type",
      );
      assert.equal((await store.jobs.list({ limit: 100, kind: "training" })).rows.length, 0);
    });
  });

  test(
    `on ${kind} a job's row and its queue entry are written together or not at all`,
    kind === "postgres" ? needsPostgres() : {},
    async () => {
      const postgres = kind === "postgres" ? await startPostgres() : null;
      const databaseUrl = postgres ? await postgres.createDatabase() : null;
      const dataDir = temporaryFolder();
      if (databaseUrl === null) await fillDataDir(dataDir);
      const client = await openDatabase({ databaseUrl, dataDir, maxConnections: 4, onError: () => undefined });
      const entries = await openEntryQueue(client.queueConnection, createLog("silent"));
      const store = createStore(client, () => dataDir);
      await entries.open(jobOf());
      const selector = formatSelector(selectorOf(jobOf()));
      const broken = store.work.insert(jobOf(), async (handle, job, delayMs) => {
        await entries.enqueue(handle, job, delayMs);
        throw new Error("power cut");
      });
      await assert.rejects(broken, /power cut/);
      assert.equal((await store.jobs.list({ limit: 10 })).rows.length, 0);
      assert.equal(await entries.take(selector), null);
      const { id } = await store.work.insert(jobOf(), entries.enqueue);
      assert.equal((await entries.take(selector))?.job, id);
      await entries.close();
      await client.close();
      await postgres?.stop();
      rmSync(dataDir, { recursive: true, force: true });
    },
  );
}

/**
 * Who takes which job, on PGlite and on a real PostgreSQL: jobs of several selectors go in the order they came, so
 * that none starves another; `auto` is left to a better worker that is free; what nobody can do stays where it is.
 */
import assert from "node:assert/strict";
import { rmSync } from "node:fs";
import { after, before, describe, test } from "node:test";
import { openEntryQueue, type EntryQueue } from "../../../src/engine/jobs/entries.ts";
import { canServe, selectorOf } from "../../../src/engine/jobs/selector.ts";
import { takeEntry } from "../../../src/engine/jobs/taking.ts";
import { createLog } from "../../../src/engine/log.ts";
import { fillDataDir } from "../../helpers/embeddedDatabase.ts";
import { openDatabase, type DatabaseClient } from "../../../src/engine/store/client.ts";
import type { NewJob } from "../../../src/engine/store/jobTypes.ts";
import { createStore, type EngineStore } from "../../../src/engine/store/store.ts";
import type { WorkerBackend } from "../../../src/engine/store/workerTypes.ts";
import type { WorkerSelf } from "../../../src/engine/store/workers.ts";
import { needsPostgres, startPostgres, type TestPostgres } from "../../helpers/postgres.ts";
import { jobOf, temporaryFolder } from "../store/fixtures.ts";

const gib = 2 ** 30;

function backend(name: string, preference: number, memoryBytes: number): WorkerBackend {
  return { name, preference, available: true, automatic: true, reason: null, device: null, memoryBytes };
}

function self(id: string, ...backends: WorkerBackend[]): WorkerSelf {
  return {
    ...{ id, hostname: "h", pid: 1, embedded: false, backends, memoryBytes: gib, needs: ["files", "benchmarks"] },
    ...{ places: { compute: 1, prepare: 1 }, startedAt: new Date() },
  };
}

const small = self("small", backend("wasm", 10, 4 * gib));
const large = self("large", backend("webgpu", 30, 16 * gib));
const both = self("both", backend("wasm", 10, 4 * gib), backend("webgpu", 30, 16 * gib));
const idle = { compute: [], prepare: [] };

for (const kind of ["pglite", "postgres"] as const) {
  describe(`taking jobs on ${kind}`, kind === "postgres" ? needsPostgres() : {}, () => {
    let postgres: TestPostgres | null = null;
    let client: DatabaseClient;
    let entries: EntryQueue;
    let store: EngineStore;
    const dataDir = temporaryFolder();
    before(async () => {
      postgres = kind === "postgres" ? await startPostgres() : null;
      const databaseUrl = postgres ? await postgres.createDatabase() : null;
      if (databaseUrl === null) await fillDataDir(dataDir);
      client = await openDatabase({ databaseUrl, dataDir, maxConnections: 4, onError: () => undefined });
      entries = await openEntryQueue(client.queueConnection, createLog("silent"));
      store = createStore(client, () => dataDir);
    });
    after(async () => {
      await entries.close();
      await client.close();
      await postgres?.stop();
      rmSync(dataDir, { recursive: true, force: true });
    });
    const submit = async (asked: string, more: Partial<NewJob> = {}): Promise<string> => {
      const job = jobOf({ request: { backend: asked }, ...more });
      await entries.open(job);
      return (await store.work.insert(job, entries.enqueue)).id;
    };
    /** Takes and begins the next job of the worker. @returns its id, or null */
    const begin = async (worker: WorkerSelf): Promise<string | null> => {
      const entry = await takeEntry("compute", worker, { store, entries });
      if (entry === null) return null;
      const canDo = (job: Parameters<typeof selectorOf>[0]) => canServe(selectorOf(job), worker);
      const job = await store.work.claim(entry.job, entry.id, { worker: worker.id, canDo, enqueue: entries.enqueue });
      await entries.complete(entry);
      return job?.id ?? begin(worker);
    };
    const end = (id: string) => store.work.succeed({ id, attempt: 1 }, { result: () => ({}) });

    test("an old job never waits behind newer ones of another selector, however many come", async () => {
      const order: string[] = [];
      for (const asked of ["auto", "wasm", "auto", "webgpu", "wasm", "auto"]) order.push(await submit(asked));
      const begun: string[] = [];
      for (let round = 0; round < 24; round++) {
        const id = await begin(both);
        assert.ok(id !== null);
        begun.push(id);
        // two newer ones of one selector come for each that goes: by their number alone they would win
        if (round < 9)
          for (let more = 0; more < 2; more++) order.push(await submit(round % 2 === 0 ? "auto" : "webgpu"));
        await end(id);
      }
      assert.deepEqual(begun, order);
      assert.equal(await begin(both), null);
    });

    test("a job that is not yet due holds up no other, and is taken when it is", async () => {
      const late = await submit("wasm");
      const first = await begin(small);
      assert.equal(first, late);
      const failed = { code: "compute_crashed", message: "it died" } as const;
      await store.work.retry({ id: late, attempt: 1 }, failed, () => 1_500, entries.enqueue);
      const other = await submit("auto");
      assert.equal(await begin(small), other);
      await end(other);
      assert.equal(await begin(small), null);
      await new Promise((resolve) => setTimeout(resolve, 1_700));
      assert.equal(await begin(small), late);
      await store.work.stop({ id: late, attempt: 2 }, "cancelled");
    });

    test("jobs go to workers that can do them, and what none can do stays queued", async () => {
      const gpu = await submit("webgpu");
      const huge = await submit("auto", { needsBytes: 64 * gib });
      const big = await submit("auto", { needsBytes: 8 * gib });
      assert.equal(await begin(small), null);
      assert.equal(await begin(large), gpu);
      assert.equal(await begin(large), big);
      assert.equal(await begin(large), null);
      assert.equal((await store.jobs.get(huge)).status, "queued");
      await store.work.cancel(huge);
      await Promise.all([gpu, big].map(end));
    });

    test("`auto` is left to a free worker with a better backend, and taken where that one is busy", async () => {
      await store.workers.heartbeat(small, idle);
      await store.workers.heartbeat(large, idle);
      const first = await submit("auto");
      assert.equal(await begin(small), null);
      assert.equal(await begin(large), first);
      await store.workers.heartbeat(large, { compute: [first], prepare: [] });
      const second = await submit("auto");
      assert.equal(await begin(small), second);
      await Promise.all([first, second].map(end));
      await store.workers.unregister(small.id);
      await store.workers.unregister(large.id);
    });

    test("a job begun on one backend goes on there only, also after its worker was lost", async () => {
      const id = await submit("auto");
      const entry = await takeEntry("compute", large, { store, entries });
      assert.equal(entry?.job, id);
      const canDo = (worker: WorkerSelf) => (job: Parameters<typeof selectorOf>[0]) =>
        canServe(selectorOf(job), worker);
      const enqueue = entries.enqueue;
      await store.work.claim(id, entry.id, { worker: large.id, canDo: canDo(large), enqueue });
      await entries.open({ ...jobOf(), backend: "webgpu" });
      await store.work.setBackend({ id, attempt: 1 }, "webgpu");
      // delivered again, since its worker fell silent, and to one that lacks the backend
      assert.equal(await store.work.claim(id, entry.id, { worker: small.id, canDo: canDo(small), enqueue }), null);
      assert.equal((await store.jobs.get(id)).selector, "compute.webgpu.0.nothing");
      await entries.complete(entry);
      assert.equal(await begin(small), null);
      assert.equal(await begin(large), id);
      await store.work.stop({ id, attempt: 2 }, "cancelled");
    });
  });
}

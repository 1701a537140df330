/** What the store guarantees, on PGlite and on a real PostgreSQL alike. */
import assert from "node:assert/strict";
import { rmSync } from "node:fs";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { CodedError, type ErrorCode } from "../../../src/ops/errors.ts";
import { blobPath } from "../../../src/engine/checkpoint/blobs.ts";
import { openDatabase, type DatabaseClient } from "../../../src/engine/store/client.ts";
import { pointToJson } from "../../../src/engine/store/curve.ts";
import { LostClaimError } from "../../../src/engine/store/jobTypes.ts";
import { createStore, type EngineStore } from "../../../src/engine/store/store.ts";
import { needsPostgres, startPostgres, type TestPostgres } from "../../helpers/postgres.ts";
import {
  checkpointOf,
  datasetManifestOf,
  claimant,
  fakeEntries,
  jobOf,
  putBlob,
  stateOf,
  temporaryFolder,
} from "./fixtures.ts";

const failsWith = (code: ErrorCode) => (error: unknown) => error instanceof CodedError && error.code === code;

for (const kind of ["pglite", "postgres"] as const) {
  describe(`store on ${kind}`, kind === "postgres" ? needsPostgres() : {}, () => {
    const folder = temporaryFolder();
    const blobDir = join(folder, "blobs");
    let postgres: TestPostgres | null = null;
    let client: DatabaseClient;
    let store: EngineStore;

    before(async () => {
      postgres = kind === "postgres" ? await startPostgres() : null;
      const databaseUrl = postgres ? await postgres.createDatabase() : null;
      client = await openDatabase({ databaseUrl, dataDir: folder, maxConnections: 8, onError: () => undefined });
      store = createStore(client, (digest) => blobPath(blobDir, digest));
    });
    after(async () => {
      await client.close();
      await postgres?.stop();
      rmSync(folder, { recursive: true, force: true });
    });

    test("a checkpoint comes back as it was written, with counts from its manifest", async () => {
      const blob = putBlob(blobDir, "counts");
      const made = await store.checkpoints.create(
        checkpointOf([blob, blob], { name: "one", metadata: { b: 1, a: "\0" } }),
      );
      const row = await store.checkpoints.get("one");
      assert.deepEqual(row, made);
      assert.equal(row.numParameters, 8);
      assert.equal(row.numParametersNonEmbedding, 4);
      assert.equal(row.sizeBytes, 32);
      assert.equal(row.storedBytes, blob.sizeBytes);
      assert.deepEqual(Object.keys(row.metadata), ["b", "a"]);
      const resolved = await store.checkpoints.resolve(row);
      assert.equal(resolved.blobs[blob.digest]?.path, blobPath(blobDir, blob.digest));
    });

    test("a checkpoint whose bytes are not on disk is refused", async () => {
      const missing = { digest: "0".repeat(64), sizeBytes: 4 };
      await assert.rejects(store.checkpoints.create(checkpointOf([missing])), failsWith("store_unavailable"));
    });

    test("a page goes on exactly after the one before, newest first, whatever is added meanwhile", async () => {
      const blob = putBlob(blobDir, "pages");
      const ids: string[] = [];
      for (let i = 0; i < 5; i++)
        ids.push((await store.checkpoints.create(checkpointOf([blob], { name: "paged" }))).id);
      const first = await store.checkpoints.list({ limit: 2, name: "paged" });
      await store.checkpoints.create(checkpointOf([blob], { name: "paged" }));
      const seen = first.rows.map((row) => row.id);
      for (let after = first.next; after !== null;) {
        const page = await store.checkpoints.list({ limit: 2, name: "paged", after });
        seen.push(...page.rows.map((row) => row.id));
        after = page.next;
      }
      assert.equal(seen.length, 5);
      assert.deepEqual([...seen].sort(), [...ids].sort());
    });

    test("what is not a cursor is an invalid request", async () => {
      const lies = ["", "!!!", "bnVsbA", Buffer.from("[1]").toString("base64url"), "x".repeat(5000)];
      lies.push(
        Buffer.from('[1,"; drop table jobs"]').toString("base64url"),
        Buffer.from('[1e99,"job_1"]').toString("base64url"),
      );
      for (const after of lies)
        await assert.rejects(store.jobs.list({ limit: 2, after }), failsWith("invalid_request"), after);
    });

    test("an update with a stale version changes nothing", async () => {
      const { id, version } = await store.checkpoints.create(checkpointOf([putBlob(blobDir, "versions")]));
      const updated = await store.checkpoints.update(id, { name: "new" }, version);
      assert.equal(updated.version, version + 1);
      await assert.rejects(store.checkpoints.update(id, { name: "x" }, version), failsWith("precondition_failed"));
      assert.equal((await store.checkpoints.get(id)).name, "new");
    });

    test("a parent is deleted only with its descendants, and lineage knows both directions", async () => {
      const blob = putBlob(blobDir, "family");
      const parent = await store.checkpoints.create(checkpointOf([blob]));
      const child = await store.checkpoints.create(checkpointOf([blob], { relation: "grown", parents: [parent.id] }));
      const grandchild = await store.checkpoints.create(
        checkpointOf([blob], { relation: "trained", parents: [child.id] }),
      );
      const lineage = await store.checkpoints.lineage(child.id);
      assert.deepEqual(new Set(lineage.nodes.map((node) => node.id)), new Set([parent.id, child.id, grandchild.id]));
      assert.equal(lineage.edges.length, 2);
      assert.deepEqual(
        (await store.checkpoints.list({ limit: 5, parent: parent.id })).rows.map((row) => row.id),
        [child.id],
      );
      assert.deepEqual(child.parents, [{ checkpoint: parent.id, relation: "grown" }]);
      await assert.rejects(store.checkpoints.delete(parent.id, { cascade: false }), failsWith("conflict"));
      const gone = await store.checkpoints.delete(parent.id, { cascade: true });
      assert.deepEqual(new Set(gone), new Set([parent.id, child.id, grandchild.id]));
      await assert.rejects(store.checkpoints.get(child.id), failsWith("not_found"));
    });

    test("a checkpoint that a job may read cannot be deleted until the job has ended", async () => {
      const { id } = await store.checkpoints.create(checkpointOf([putBlob(blobDir, "in use")]));
      const entries = fakeEntries();
      const job = await store.work.insert(jobOf({ checkpoints: [id] }), entries.enqueue);
      await assert.rejects(store.checkpoints.delete(id, { cascade: true }), failsWith("conflict"));
      await store.work.cancel(job.id);
      await store.checkpoints.delete(id, { cascade: false });
      await assert.rejects(store.work.insert(jobOf({ checkpoints: [id] }), entries.enqueue), failsWith("not_found"));
    });

    test("a blob outlives its checkpoint while anybody refers to it, and is swept after", async () => {
      const shared = putBlob(blobDir, "shared");
      const own = putBlob(blobDir, "own");
      const one = await store.checkpoints.create(checkpointOf([shared, own]));
      const two = await store.checkpoints.create(checkpointOf([shared]));
      assert.deepEqual(await store.checkpoints.sharedBlobs(one.id), new Set([shared.digest]));
      assert.equal(two.storedBytes, 0);
      const removed: string[] = [];
      const sweep = () => store.blobs.sweep(0, (digest) => Promise.resolve(void removed.push(digest)));
      await store.checkpoints.delete(one.id, { cascade: false });
      await new Promise((resolve) => setTimeout(resolve, 5));
      await sweep();
      assert.ok(removed.includes(own.digest) && !removed.includes(shared.digest));
      await store.checkpoints.delete(two.id, { cascade: false });
      await sweep();
      assert.ok(removed.includes(shared.digest));
      assert.equal((await store.blobs.known([shared.digest])).size, 0);
    });

    test("young orphans are spared by the sweep", async () => {
      const blob = putBlob(blobDir, "young");
      const { id } = await store.checkpoints.create(checkpointOf([blob]));
      await store.checkpoints.delete(id, { cascade: false });
      await store.blobs.sweep(60_000, () => assert.fail("nothing is old enough"));
      assert.ok((await store.blobs.known([blob.digest])).has(blob.digest));
    });

    test("a file registered by reference is located where it lies, and one of our own outranks it", async () => {
      const blob = putBlob(blobDir, "outside");
      const external = { path: join(folder, "elsewhere.bin"), mtimeMs: 123.5 };
      await store.checkpoints.create(checkpointOf([blob], { blobs: [{ ...blob, external }] }));
      assert.deepEqual(await store.blobs.locate([blob.digest]), {
        [blob.digest]: { path: external.path, sizeBytes: blob.sizeBytes, mtimeMs: 123.5 },
      });
      const copy = await store.checkpoints.create(checkpointOf([blob]));
      assert.equal(copy.storedBytes, blob.sizeBytes);
      assert.equal((await store.blobs.locate([blob.digest]))[blob.digest]?.path, blobPath(blobDir, blob.digest));
    });

    test("datasets keep their shards, and names find the newest", async () => {
      const blob = putBlob(blobDir, "tokens");
      const manifest = datasetManifestOf(blob);
      const base = { name: "corpus", manifest, metadata: {}, job: null, blobs: [{ ...blob, external: null }] };
      const old = await store.datasets.create(base);
      await new Promise((resolve) => setTimeout(resolve, 5));
      const young = await store.datasets.create(base);
      assert.equal((await store.datasets.get("corpus")).id, young.id);
      assert.equal((await store.datasets.resolve(old)).blobs[blob.digest]?.sizeBytes, blob.sizeBytes);
      await assert.rejects(store.datasets.delete(old.id, 7), failsWith("precondition_failed"));
      await store.datasets.delete(old.id);
      await assert.rejects(store.datasets.get(old.id), failsWith("not_found"));
    });

    test("a long request is shown shortened, and given to the attempt whole", async () => {
      const entries = fakeEntries();
      const request = {
        source: { text: ["\0".repeat(70_000), "short"], other: Array.from({ length: 5_000 }, () => 1) },
        name: "n",
      };
      const { id } = await store.work.insert(jobOf({ request }), entries.enqueue);
      const shown = await store.jobs.get(id);
      assert.ok(JSON.stringify(shown.request).length < 5_000);
      assert.equal(shown.request["name"], "n");
      const claimed = await store.work.claim(id, entries.last(), claimant("w"));
      assert.deepEqual(claimed?.request, request);
      await store.work.stop({ id, attempt: 1 }, "cancelled");
    });

    test("of many claims on one entry exactly one wins, and a stale entry never does", async () => {
      const entries = fakeEntries();
      const job = await store.work.insert(jobOf(), entries.enqueue);
      assert.equal(await store.work.claim(job.id, "another entry", claimant("w")), null);
      const claimed = await store.work.claim(job.id, entries.last(), claimant("w1"));
      assert.equal(claimed?.status, "running");
      assert.equal(claimed?.attempts, 1);
      await store.work.stop({ id: job.id, attempt: 1 }, "paused");
      const resumed = await store.work.resume(job.id, entries.enqueue);
      assert.equal(resumed.status, "queued");
      const race = await Promise.all(
        Array.from({ length: 6 }, () => store.work.claim(job.id, "entry1", claimant("w"))),
      );
      assert.deepEqual(race, [null, null, null, null, null, null]);
      const next = await store.work.claim(job.id, entries.last(), claimant("w2"));
      assert.equal(next?.attempts, 2);
    });

    test("an attempt that was taken over can write nothing more", async () => {
      const entries = fakeEntries();
      const { id } = await store.work.insert(jobOf(), entries.enqueue);
      await store.work.claim(id, entries.last(), claimant("w1"));
      const taken = await store.work.claim(id, entries.last(), claimant("w2")); // delivered again: w1 was given up
      assert.equal(taken?.attempts, 2);
      const old = { id, attempt: 1 };
      const blob = putBlob(blobDir, "fenced");
      const lost = (error: unknown) => error instanceof LostClaimError;
      const before = (await store.checkpoints.list({ limit: 100 })).rows.length;
      await assert.rejects(store.work.append(old, [{ type: "log", data: {} }], null), lost);
      await assert.rejects(store.work.save(old, stateOf(1, blob), [blob], checkpointOf([blob])), lost);
      await assert.rejects(store.work.succeed(old, { checkpoint: checkpointOf([blob]), result: () => ({}) }), lost);
      await assert.rejects(store.work.fail(old, { code: "internal", message: "" }), lost);
      await assert.rejects(store.work.stop(old, "cancelled"), lost);
      assert.equal((await store.checkpoints.list({ limit: 100 })).rows.length, before);
      assert.deepEqual(await store.work.control(old), { owned: false, control: null });
      const done = await store.work.succeed({ id, attempt: 2 }, { result: () => ({ fine: true }) });
      assert.equal(done.status, "succeeded");
      await assert.rejects(store.work.succeed({ id, attempt: 2 }, { result: () => ({}) }), lost);
    });

    test("a job whose worker is lost again and again fails, naming the cause", async () => {
      const entries = fakeEntries();
      const { id } = await store.work.insert(jobOf({ maxAttempts: 2 }), entries.enqueue);
      await store.work.claim(id, entries.last(), claimant("w"));
      assert.notEqual(await store.work.claim(id, entries.last(), claimant("w")), null);
      assert.equal(await store.work.claim(id, entries.last(), claimant("w")), null);
      const row = await store.jobs.get(id);
      assert.equal(row.status, "failed");
      assert.equal(row.error?.code, "compute_crashed");
      assert.match(row.error?.message ?? "", /2 times in a row/);
    });

    test("failures that may pass are retried with growing pauses, and a resume point forgives earlier ones", async () => {
      const entries = fakeEntries();
      const { id } = await store.work.insert(jobOf({ maxAttempts: 2 }), entries.enqueue);
      const error = { code: "compute_crashed", message: "it died" } as const;
      const delay = (failures: number): number => failures * 1000;
      await store.work.claim(id, entries.last(), claimant("w"));
      assert.equal((await store.work.retry({ id, attempt: 1 }, error, delay, entries.enqueue)).status, "queued");
      assert.equal(entries.delays.at(-1), 1000);
      await store.work.claim(id, entries.last(), claimant("w"));
      const blob = putBlob(blobDir, "resume point");
      await store.work.save({ id, attempt: 2 }, stateOf(3, blob), [blob], null);
      assert.equal((await store.work.retry({ id, attempt: 2 }, error, delay, entries.enqueue)).status, "queued");
      const again = await store.work.claim(id, entries.last(), claimant("w"));
      assert.equal(again?.resume?.step, 3);
      const failed = await store.work.retry({ id, attempt: 3 }, error, delay, entries.enqueue);
      assert.equal(failed.status, "failed");
      assert.match(failed.error?.message ?? "", /it died \(after 2 attempts\)/);
    });

    test("a resume point's blobs are kept by its job, until the job ends", async () => {
      const entries = fakeEntries();
      const { id } = await store.work.insert(jobOf(), entries.enqueue);
      await store.work.claim(id, entries.last(), claimant("w"));
      const [first, second] = [putBlob(blobDir, "state 1"), putBlob(blobDir, "state 2")];
      const removed: string[] = [];
      const sweep = async () => {
        await new Promise((resolve) => setTimeout(resolve, 5));
        await store.blobs.sweep(0, (digest) => Promise.resolve(void removed.push(digest)));
      };
      await store.work.save({ id, attempt: 1 }, stateOf(1, first), [first], null);
      await store.work.save({ id, attempt: 1 }, stateOf(2, second), [second], null);
      await sweep();
      assert.ok(removed.includes(first.digest) && !removed.includes(second.digest));
      const third = putBlob(blobDir, "published");
      const published = await store.work.save(
        { id, attempt: 1 },
        stateOf(3, third),
        [third],
        checkpointOf([third], { blobs: [] }),
      );
      assert.equal(published?.storedBytes, third.sizeBytes);
      await store.work.save({ id, attempt: 1 }, stateOf(4, second), [second], null);
      await store.work.stop({ id, attempt: 1 }, "paused");
      await sweep();
      assert.ok(!removed.includes(second.digest));
      await store.work.cancel(id);
      await sweep();
      assert.ok(removed.includes(second.digest));
    });

    test("events are numbered from 1 without gaps, also when many write at once", async () => {
      const entries = fakeEntries();
      const { id } = await store.work.insert(jobOf(), entries.enqueue);
      await store.work.claim(id, entries.last(), claimant("w"));
      const claim = { id, attempt: 1 };
      const log = (n: number) =>
        store.work.append(
          claim,
          [
            { type: "log", data: { n } },
            { type: "log", data: { n } },
          ],
          { fraction: 0.5 },
        );
      await Promise.all(Array.from({ length: 10 }, (_, n) => log(n)));
      const events = await store.jobs.events(id, { after: 0, limit: 100 });
      assert.deepEqual(
        events.map((event) => event.seq),
        Array.from({ length: 22 }, (_, i) => i + 1),
      );
      assert.deepEqual(
        (await store.jobs.events(id, { after: 20, limit: 1 })).map((event) => event.seq),
        [21],
      );
      assert.equal((await store.jobs.events(id, { after: 0, limit: 100, type: "status" })).length, 2);
      assert.equal((await store.jobs.get(id)).progress.fraction, 0.5);
    });

    test("the curve has one point per step: of a step made twice the later, validation joined to its step", async () => {
      const entries = fakeEntries();
      const { id } = await store.work.insert(jobOf(), entries.enqueue);
      await store.work.claim(id, entries.last(), claimant("w"));
      const point = (step: number, loss: number | null, validationLoss: number | null = null) => ({
        type: "metrics" as const,
        data: pointToJson({
          step,
          tokens: step,
          flops: step,
          loss,
          validationLoss,
          learningRate: 1,
          gradNorm: 1,
          tokensPerSecond: 1,
        }),
      });
      await store.work.append(
        { id, attempt: 1 },
        [point(1, 5), point(2, 4), point(2, null, 3.5), point(3, 3), point(2, 4.5)],
        null,
      );
      const curve = await store.jobs.metrics(id);
      assert.deepEqual(
        curve.map(({ step, loss, validationLoss }) => [step, loss, validationLoss]),
        [
          [1, 5, null],
          [2, 4.5, 3.5],
          [3, 3, null],
        ],
      );
    });

    test("cancel, pause and resume follow the states, and say why not", async () => {
      const entries = fakeEntries();
      const queued = await store.work.insert(jobOf(), entries.enqueue);
      assert.equal((await store.work.pause(queued.id)).status, "paused");
      assert.equal(await store.work.claim(queued.id, entries.last(), claimant("w")), null);
      assert.equal((await store.work.resume(queued.id, entries.enqueue)).status, "queued");
      await assert.rejects(store.work.resume(queued.id, entries.enqueue), failsWith("conflict"));
      await store.work.claim(queued.id, entries.last(), claimant("w"));
      assert.equal((await store.work.pause(queued.id)).control, "pause");
      assert.equal((await store.work.cancel(queued.id)).control, "cancel");
      await assert.rejects(store.work.pause(queued.id), failsWith("conflict"));
      assert.deepEqual(await store.work.control({ id: queued.id, attempt: 1 }), { owned: true, control: "cancel" });
      assert.equal((await store.work.stop({ id: queued.id, attempt: 1 }, "cancelled")).status, "cancelled");
      await assert.rejects(store.work.cancel(queued.id), failsWith("conflict"));
      const growth = await store.work.insert(jobOf({ kind: "growth" }), entries.enqueue);
      await assert.rejects(store.work.pause(growth.id), failsWith("conflict"));
      await assert.rejects(store.work.cancel("job_unknown"), failsWith("not_found"));
    });

    test("recovery queues what was running again, once, and obeys what had been asked", async () => {
      const entries = fakeEntries();
      const make = async () => {
        const { id } = await store.work.insert(jobOf(), entries.enqueue);
        await store.work.claim(id, entries.last(), claimant("dead"));
        return id;
      };
      const [running, pausing, cancelling] = [await make(), await make(), await make()];
      await store.work.pause(pausing);
      await store.work.cancel(cancelling);
      const interrupted = await store.work.recover(entries.enqueue);
      for (const id of [running, pausing, cancelling]) assert.ok(interrupted.includes(id));
      const statuses = await Promise.all(
        [running, pausing, cancelling].map(async (id) => (await store.jobs.get(id)).status),
      );
      assert.deepEqual(statuses, ["queued", "paused", "cancelled"]);
    });

    test("an evaluation shows its job's state, and the table its results, newest first", async () => {
      const entries = fakeEntries();
      const { id: checkpoint } = await store.checkpoints.create(
        checkpointOf([putBlob(blobDir, "scored")], { name: "scored" }),
      );
      const run = async (accuracy: number) => {
        const job = await store.work.insert(
          jobOf({ kind: "evaluation", checkpoints: [checkpoint], evaluation: { checkpoint } }),
          entries.enqueue,
        );
        const evaluation = String((job.request as { evaluation?: string }).evaluation);
        assert.equal((await store.evaluations.get(evaluation)).status, "queued");
        await store.work.claim(job.id, entries.last(), claimant("w"));
        const result = { task: "arc_easy", taskVersion: "1", numDocs: 3, metrics: { "acc,none": accuracy } };
        const samples = { ...putBlob(blobDir, `samples ${accuracy}`), numSamples: 3 };
        const results = [{ ...result, higherIsBetter: {}, datasetDigest: "f", settings: {}, samples }];
        await store.work.succeed(
          { id: job.id, attempt: 1 },
          { evaluation: { id: evaluation, results }, result: () => ({}) },
        );
        return evaluation;
      };
      const earlier = await run(0.25);
      await new Promise((resolve) => setTimeout(resolve, 5));
      const later = await run(0.5);
      const row = await store.evaluations.get(later);
      assert.equal(row.status, "succeeded");
      assert.deepEqual(row.results[0]?.metrics, { "acc,none": 0.5 });
      const table = await store.evaluations.results({ checkpoint });
      assert.deepEqual(
        table.map((line) => [line.evaluation, line.checkpointName, line.metrics]),
        [
          [later, "scored", { "acc,none": 0.5 }],
          [earlier, "scored", { "acc,none": 0.25 }],
        ],
        "newest first",
      );
      assert.equal((await store.evaluations.list({ limit: 5, checkpoint })).rows.length, 2);
      const digest = row.results[0]?.samples?.digest ?? "";
      const swept: string[] = [];
      const sweep = () => store.blobs.sweep(0, (one) => Promise.resolve(void swept.push(one)));
      await sweep();
      assert.ok(!swept.includes(digest), "a log is kept as long as its evaluation");
      await store.checkpoints.delete(checkpoint, { cascade: false });
      await assert.rejects(store.evaluations.get(later), failsWith("not_found"));
      await new Promise((resolve) => setTimeout(resolve, 5));
      await sweep();
      assert.ok(swept.includes(digest), "and no longer");
    });

    test("pieces of work that an attempt kept are there for the next one, and gone when the job has ended", async () => {
      const entries = fakeEntries();
      const { id } = await store.work.insert(jobOf(), entries.enqueue);
      await store.work.claim(id, entries.last(), claimant("a"));
      await store.work.keepPart({ id, attempt: 1 }, { docs: [1, 0] });
      await store.work.keepPart({ id, attempt: 1 }, { docs: [2] });
      await store.work.claim(id, entries.last(), claimant("b"));
      await assert.rejects(store.work.keepPart({ id, attempt: 1 }, { docs: [3] }), LostClaimError);
      assert.deepEqual(await store.work.parts(id), [{ docs: [1, 0] }, { docs: [2] }]);
      await store.work.succeed({ id, attempt: 2 }, { result: () => ({}) });
      assert.deepEqual(await store.work.parts(id), []);
    });

    test("a key is known by its secret alone, which is nowhere in the database", async () => {
      const { key, secret } = await store.keys.create("ci", ["read", "write"]);
      assert.match(secret, /^key_[0-9a-z]{22}_[\w-]{43}$/);
      assert.equal((await store.keys.verify(secret))?.id, key.id);
      assert.equal(await store.keys.verify(key.id), null);
      assert.equal(await store.keys.verify(`${secret.slice(0, -1)}!`), null);
      assert.ok(!JSON.stringify(await store.keys.list()).includes(secret.slice(27)));
      assert.equal(await store.keys.count(), 1);
      await assert.rejects(store.keys.create("x", ["root"]), failsWith("invalid_request"));
      await store.keys.delete(key.id);
      assert.equal(await store.keys.verify(secret), null);
    });

    test("of many requests with one Idempotency-Key one goes through, the rest wait, replay or are refused", async () => {
      const { idempotency } = store;
      const tries = await Promise.allSettled(Array.from({ length: 8 }, () => idempotency.begin("k", "scope", "body")));
      assert.equal(tries.filter((one) => one.status === "fulfilled" && one.value === null).length, 1);
      const refused = tries.filter((one) => one.status === "rejected");
      assert.equal(refused.length, 7);
      for (const one of refused) assert.ok(failsWith("idempotency_conflict")((one as PromiseRejectedResult).reason));
      const answer = { status: 201, headers: { location: "/x" }, body: "{}" };
      await idempotency.finish("k", "scope", answer);
      assert.deepEqual(await idempotency.begin("k", "scope", "body"), answer);
      await assert.rejects(idempotency.begin("k", "scope", "other body"), failsWith("idempotency_mismatch"));
      assert.equal(await idempotency.begin("k", "another scope", "other body"), null);
      await idempotency.release("k", "another scope");
      assert.equal(await idempotency.begin("k", "another scope", "third body"), null);
      await idempotency.sweep();
      assert.deepEqual(await idempotency.begin("k", "scope", "body"), answer);
    });

    test("a wait for a job ends when it changes, and never later than its time-out", async () => {
      const entries = fakeEntries();
      const { id } = await store.work.insert(jobOf(), entries.enqueue);
      const started = Date.now();
      const changed = store.jobs.changed(id, 60_000);
      await store.work.pause(id);
      await changed;
      await store.jobs.changed(id, 20);
      const aborted = new AbortController();
      aborted.abort();
      await store.jobs.changed(id, 60_000, aborted.signal);
      assert.ok(Date.now() - started < 5_000);
    });

    test("the database answers a ping", async () => {
      await store.ping(5_000);
    });
  });
}

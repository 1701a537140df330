/**
 * Several machines, as processes: an API on a real PostgreSQL that computes nothing itself, a worker that has nothing
 * but the API's address and the database, and one that shares the data directory. Jobs go where they can be done; a
 * worker killed with -9 is replaced by the next that can do its job, with the bytes of a run that nothing befell.
 */
import { defaultWebgpuOptions } from "../../../src/engine/backends/webgpuDevice.ts";
import assert from "node:assert/strict";
import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { rmSync } from "node:fs";
import { after, before, describe, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { startServer, type RunningServer } from "../../../src/api/listen.ts";
import { getBackend, listBackends } from "../../../src/engine/backends/index.ts";
import { createLog } from "../../../src/engine/log.ts";
import { probeBackends } from "../../../src/engine/jobs/backendChoice.ts";
import { computeEnvironment } from "../../../src/engine/settings.ts";
import { needsPostgres, startPostgres, type TestPostgres } from "../../helpers/postgres.ts";
import { temporaryFolder } from "../store/fixtures.ts";
import { testSettings, tinyConfig } from "./harness.ts";

const entry = fileURLToPath(new URL("../../../src/engine/worker.ts", import.meta.url));
const waitMs = 120_000;
/** Tokens of trainings that are interrupted, in which a kill comes before the end, and of others. */
const long = 2_560;
const short = 64;
const savedEvery = 512;
/** Backends of the far worker; the near one has `wasm`. */
const farBackends = ["cpu", "webgpu"];
const text = Array.from({ length: 40 }, (_, i) => `${i} green bottles hanging on the wall, and ${i + 1} more. `);

async function missing(name: string): Promise<string | false> {
  if (!listBackends().some((backend) => backend.name === name)) return `there is no backend ${name} in this version`;
  const { available, reason } = await getBackend(name).probe();
  return available ? false : `backend ${name} is not available: ${reason ?? "no reason given"}`;
}

/** @returns what `auto` is to choose of these backends. */
async function mostPreferred(backends: readonly string[]): Promise<string | undefined> {
  const kinds = { backends, computeKernels: null, computeThreads: 1, webgpu: defaultWebgpuOptions };
  const automatic = (await probeBackends(kinds)).filter((one) => one.automatic);
  return automatic.toSorted((a, b) => b.preference - a.preference)[0]?.name;
}

const absences = new Map(await Promise.all(farBackends.map(async (far) => [far, await missing(far)] as const)));

// Most of the time they wait, for processes to start and for a worker to be missed: so all at once.
describe("workers on several machines", { ...needsPostgres(), concurrency: farBackends.length }, () => {
  let postgres: TestPostgres;
  before(async () => {
    postgres = await startPostgres();
  });
  after(() => postgres.stop());

  for (const far of farBackends) {
    const absent = absences.get(far) ?? false;
    describe(`a far worker with ${far} and a near one with wasm`, { skip: absent }, () => {
      let server: RunningServer;
      let databaseUrl: string;
      const folders = [temporaryFolder(), temporaryFolder()];
      const [sharedDir = "", farDir = ""] = folders;
      const workers: ChildProcess[] = [];

      before(async () => {
        databaseUrl = await postgres.createDatabase();
        const settings = testSettings(sharedDir, databaseUrl, { PORT: "0" });
        server = await startServer(settings, { services: { log: createLog("silent") } });
      });
      after(async () => {
        await Promise.all(workers.map((worker) => end(worker, "SIGKILL")));
        await server.close();
        for (const folder of folders) rmSync(folder, { recursive: true, force: true });
      });

      // eslint-disable-next-line @typescript-eslint/no-explicit-any -- what the API answers is asserted on
      const call = async (path: string, body?: object): Promise<any> => {
        const init = body && {
          method: "POST",
          body: JSON.stringify(body),
          headers: { "Content-Type": "application/json" },
        };
        const answer = await fetch(server.url + path, init);
        const content: unknown = await answer.json();
        assert.ok(answer.ok, JSON.stringify(content));
        return content;
      };
      /** Looks again and again until `found` is pleased. */
      const until = async <T>(look: () => Promise<T>, found: (seen: T) => boolean): Promise<T> => {
        const deadline = Date.now() + waitMs;
        for (;;) {
          const seen = await look();
          if (found(seen)) return seen;
          assert.ok(Date.now() < deadline, `waited too long; the last was ${JSON.stringify(seen)}`);
          await sleep(50);
        }
      };
      const ended = ["succeeded", "failed", "cancelled"];
      const result = async ({ id }: { id: string }) => {
        const job = await until(
          () => call(`/v1/jobs/${id}`),
          (one) => ended.includes(one.status),
        );
        assert.equal(job.status, "succeeded", JSON.stringify(job.error));
        return job;
      };
      const startWorker = async (name: string, dataDir: string, ...args: string[]): Promise<ChildProcess> => {
        const count = (await call("/v1/workers")).data.length as number;
        const environment = {
          DATA_DIR: dataDir,
          DATABASE_URL: databaseUrl,
          SAVE_EVERY_SECONDS: "1",
          WORKER_LOST_SECONDS: "6",
          COMPUTE_THREADS: "1",
        };
        const env = { ...computeEnvironment(), ...environment, LOG_LEVEL: "silent", STOP_TIMEOUT_SECONDS: "20" };
        const worker = spawn(process.execPath, [entry, "--backend", name, ...args], {
          env,
          stdio: ["ignore", "ignore", "inherit"],
        });
        workers.push(worker);
        await until(
          () => call("/v1/workers"),
          ({ data }) => data.length > count,
        );
        return worker;
      };
      const startFar = () => startWorker(far, farDir, "--api", server.url);
      const end = async (worker: ChildProcess, signal: NodeJS.Signals): Promise<void> => {
        if (worker.exitCode !== null || worker.signalCode !== null) return;
        const gone = once(worker, "exit");
        worker.kill(signal);
        await gone;
      };
      const training = (backend: string, tokens: number) => {
        const shape = { batch_tokens: 32, sequence_length: 32, save_every_tokens: savedEvery };
        return call("/v1/trainings", { checkpoint: "base", dataset: "text", backend, tokens, ...shape });
      };
      const digestOf = async (job: { result: { checkpoint: string } }): Promise<string> =>
        (await call(`/v1/checkpoints/${job.result.checkpoint}`)).digest as string;
      const workerOf = async (pid: number | undefined) =>
        (await call("/v1/workers")).data.find((one: { pid: number }) => one.pid === pid);

      test("jobs go where they can be done, wait with a reason where nobody can, and survive kill -9", async () => {
        const base = await call("/v1/checkpoints", {
          name: "base",
          source: { type: "random", config: tinyConfig, seed: 1, tokenizer: "bytes" },
        });
        const lonely = await until(
          () => call(`/v1/jobs/${base.id}`),
          () => true,
        );
        assert.match(lonely.waiting_reason, /no worker is alive/);
        let farWorker = await startFar();
        await result(base);
        await result(await call("/v1/datasets", { name: "text", source: { type: "text", text }, tokenizer: "bytes" }));

        // only the far worker is there: what it cannot do waits, and says for what
        const near = await training("wasm", short);
        const waiting = await call(`/v1/jobs/${near.id}`);
        assert.equal(waiting.status, "queued");
        assert.match(waiting.waiting_reason, new RegExp(`no living worker has backend wasm; theirs are ${far}`));
        const undisturbed = await training(far, long);
        const nearWorker = await startWorker("wasm", sharedDir);
        const whole = await result(undisturbed);
        assert.equal(whole.backend, far);
        assert.equal(whole.worker, (await workerOf(farWorker.pid)).id);
        const done = await result(near);
        assert.equal(done.worker, (await workerOf(nearWorker.pid)).id);
        const auto = await result(await training("auto", short));
        assert.equal(auto.backend, await mostPreferred([far, "wasm"]));

        // the far worker dies in a training; the near one cannot take it over, the next far one does
        const job = await training(far, long);
        const saved = async () => (await call(`/v1/jobs/${job.id}/events?type=checkpoint`)).data.length as number;
        await until(saved, (count) => count > 0);
        const first = await until(
          () => workerOf(farWorker.pid),
          (one) => one.current_jobs.length > 0,
        );
        assert.deepEqual([first.state, first.current_jobs], ["alive", [job.id]]);
        assert.ok(Date.parse(first.heartbeat_at) > Date.parse(first.started_at), JSON.stringify(first));
        const { device, memory_bytes } = first.backends.find(({ name }: { name: string }) => name === far);
        assert.ok(device.length > 0 && memory_bytes > 0, JSON.stringify(first.backends));
        await end(farWorker, "SIGKILL");
        const before = await saved();
        const moved = await until(
          () => call(`/v1/jobs/${job.id}`),
          (one) => one.status === "queued",
        );
        assert.match(moved.waiting_reason, new RegExp(`no living worker has backend ${far}`));
        assert.equal((await call("/v1/workers")).data.find((one: { id: string }) => one.id === first.id).state, "lost");
        farWorker = await startFar();

        // it goes on there, and that worker is asked to stop: it gives the job back at a resume point
        await until(saved, (count) => count > before);
        const again = await call(`/v1/jobs/${job.id}`);
        assert.deepEqual([again.attempts, again.worker], [2, (await workerOf(farWorker.pid)).id]);
        await end(farWorker, "SIGTERM");
        assert.equal(farWorker.exitCode, 0);
        assert.equal((await call(`/v1/jobs/${job.id}`)).status, "queued");
        farWorker = await startFar();
        const last = await result(job);
        assert.equal(last.worker, (await workerOf(farWorker.pid)).id);
        assert.equal(await digestOf(last), await digestOf(whole));
        const metrics = await (await fetch(`${server.url}/metrics`)).text();
        assert.match(metrics, /cambium_workers\{state="alive"\} 2/);
      });
    });
  }
});

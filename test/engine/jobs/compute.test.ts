/** Whatever befalls a compute process is an error of its job, and never of the process that started it. */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { CodedError, type ErrorCode } from "../../../src/ops/errors.ts";
import type { WorkEvent } from "../../../src/ops/events.ts";
import { runInChild, type ComputeLimits } from "../../../src/engine/jobs/compute.ts";
import type { ComputeRequest } from "../../../src/engine/jobs/computeProtocol.ts";
import { computeEnvironment } from "../../../src/engine/settings.ts";

const entry = fileURLToPath(new URL("./fakeChild.ts", import.meta.url));
const limits: ComputeLimits = {
  ...{ memoryBytes: 1 << 30, threads: 1, silenceMs: 60_000, stopTimeoutMs: 10_000 },
  environment: computeEnvironment(),
};
const request = (behaviour: string) => ({ kind: "train", backend: behaviour, work: {} }) as unknown as ComputeRequest;

async function run(behaviour: string, more: Partial<ComputeLimits> = {}, signal = new AbortController().signal) {
  const events: WorkEvent[] = [];
  const crashes: string[] = [];
  const onCrash = (cause: string): void => void crashes.push(cause);
  try {
    const options = { entry, signal, limits: { ...limits, ...more }, onCrash };
    for await (const event of runInChild(request(behaviour), options)) events.push(event);
    return { events, crashes, error: null };
  } catch (error) {
    assert.ok(error instanceof CodedError, String(error));
    return { events, crashes, error };
  }
}

async function failure(behaviour: string, code: ErrorCode, more: Partial<ComputeLimits> = {}): Promise<CodedError> {
  const { error } = await run(behaviour, more);
  assert.equal(error?.code, code);
  return error;
}

test("events arrive in order and end with the result", async () => {
  const { events, error } = await run("result");
  assert.equal(error, null);
  assert.deepEqual(
    events.map((event) => event.type),
    ["log", "result"],
  );
});

test("a compute process inherits neither secrets nor the database address", async () => {
  process.env["DATABASE_URL"] = "postgres://secret";
  process.env["HUB_TOKEN"] = "secret";
  const { events } = await run("result");
  delete process.env["DATABASE_URL"];
  delete process.env["HUB_TOKEN"];
  const last = events.at(-1);
  const { env } = last?.type === "result" ? (last.result as { env: object }) : { env: {} };
  assert.ok(!JSON.stringify(env).includes("secret"));
  assert.ok("PATH" in env);
});

test("a process that exits is an error that holds its exit code and the end of its stderr", async () => {
  const error = await failure("exit", "compute_crashed");
  assert.match(error.message, /exited with code 3/);
  assert.deepEqual(error.details, { exit_code: 3, signal: null, stderr: "something broke" });
});

test("a process killed with -9 is an error that names the signal", async () => {
  const error = await failure("killed", "compute_crashed");
  assert.match(error.message, /killed by SIGKILL/);
});

test("a process that blocks is killed after its time of silence", async () => {
  const error = await failure("hang", "timeout", { silenceMs: 500 });
  assert.match(error.message, /said nothing for/);
});

test(
  "a process that takes more memory than allowed is killed",
  { skip: !existsSync("/proc/self/status") },
  async () => {
    const error = await failure("memory", "out_of_memory", { memoryBytes: 256 << 20 });
    assert.match(error.message, /at most 268435456/);
  },
);

test("an error of the work arrives with its code and message, and is no crash", async () => {
  const { error, crashes } = await run("failed");
  assert.equal(error?.code, "diverged");
  assert.equal(error?.message, "loss is NaN at step 3");
  assert.deepEqual(crashes, []);
});

test("aborting asks for a clean stop, and kills a process that does not obey", async () => {
  const clean = await run("stops", {}, AbortSignal.timeout(300));
  assert.equal(clean.error, null);
  assert.equal(clean.events.at(-1)?.type, "stopped");
  const stubborn = await run("hang", { stopTimeoutMs: 300 }, AbortSignal.timeout(600));
  assert.equal(stubborn.error?.code, "timeout");
  assert.match(stubborn.error?.message ?? "", /did not stop within/);
});

test("a consumer that leaves takes the process with it", async () => {
  let pid = 0;
  const signal = new AbortController().signal;
  for await (const event of runInChild(request("wait"), { entry, signal, limits, onStart: (id) => (pid = id) })) {
    assert.equal(event.type, "log");
    break;
  }
  assert.ok(pid > 0);
  assert.throws(() => process.kill(pid, 0), { code: "ESRCH" });
});

test("a compute process ends when its parent is killed with -9", async () => {
  const module = fileURLToPath(new URL("../../../src/engine/jobs/compute.ts", import.meta.url));
  const script = `
    const { runInChild } = await import(${JSON.stringify(module)});
    const limits = ${JSON.stringify(limits)};
    const request = { kind: "train", backend: "wait", work: {} };
    const options = { entry: ${JSON.stringify(entry)}, limits, signal: new AbortController().signal };
    for await (const event of runInChild(request, options)) console.log(event.message);`;
  const parent = spawn(process.execPath, ["--input-type=module", "-e", script], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  const [chunk] = (await once(parent.stdout, "data")) as [Buffer];
  const pid = Number(chunk.toString());
  parent.kill("SIGKILL");
  const deadline = Date.now() + 10_000;
  const lives = (): boolean => {
    try {
      return process.kill(pid, 0);
    } catch {
      return false;
    }
  };
  while (lives() && Date.now() < deadline) await sleep(50);
  assert.equal(lives(), false);
});

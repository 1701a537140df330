/** Work that misbehaves in a process of its own: it fails alone, with the reason, and leaves no process behind. */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { BoundedProcess } from "../../../src/engine/serving/boundedProcess.ts";
import { CodedError } from "../../../src/ops/errors.ts";

function bounded(timeoutMs = 20_000): BoundedProcess<string, string> {
  const entry = new URL("./boundedTasks.ts", import.meta.url);
  return new BoundedProcess({ entry, what: "the task", maxWaiting: 2, timeoutMs, heapMiB: 64 });
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
}

for (const [task, code] of [
  ["fill memory", "out_of_memory"],
  ["loop", "timeout"],
  ["exit", "compute_crashed"],
] as const) {
  test(`a task that does "${task}" fails with ${code}; the one behind it is answered by another process`, async () => {
    const tasks = bounded(task === "loop" ? 500 : undefined);
    const first = await tasks.ask("hello");
    const bad = tasks.ask(task);
    const good = tasks.ask("hello");
    await assert.rejects(bad, (error) => error instanceof CodedError && error.code === code);
    assert.match(await good, /^hello by \d+$/);
    assert.notEqual(await good, first);
    await tasks.close();
  });
}

test("more than may wait are refused, and a close fails those who wait", async () => {
  const tasks = bounded();
  const asked = ["loop", "a", "b"].map((task) => tasks.ask(task));
  const outcomes = Promise.allSettled(asked);
  await assert.rejects(tasks.ask("c"), (error) => error instanceof CodedError && error.code === "too_many_requests");
  await tasks.close();
  for (const outcome of await outcomes) {
    assert.ok(outcome.status === "rejected" && outcome.reason instanceof CodedError);
    assert.equal(outcome.reason.code, "unavailable");
  }
});

test("a process in an endless task ends when its parent is killed", async () => {
  const parent = spawn(process.execPath, [fileURLToPath(new URL("./boundedParent.ts", import.meta.url))], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  const pid = Number(String((await once(parent.stdout, "data"))[0]));
  assert.ok(isAlive(pid));
  parent.kill("SIGKILL");
  const deadline = performance.now() + 20_000;
  while (isAlive(pid) && performance.now() < deadline) await sleep(50);
  assert.ok(!isAlive(pid), `process ${pid} outlived its parent`);
});

/** The lock of a data directory: held by one process, and let go of by its death, however that comes. */
import assert from "node:assert/strict";
import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { createHash } from "node:crypto";
import { mkdirSync, readdirSync, realpathSync, rmdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { CodedError } from "../../../src/ops/errors.ts";
import { lockDirectory } from "../../../src/engine/store/lock.ts";
import { temporaryFolder } from "./fixtures.ts";

const lockModule = fileURLToPath(new URL("../../../src/engine/store/lock.ts", import.meta.url));

function isLocked(pid?: number) {
  return (error: unknown) =>
    error instanceof CodedError &&
    error.code === "data_dir_locked" &&
    (pid === undefined || error.details["pid"] === pid);
}

/** A process that takes the lock, says so, and waits. */
async function holder(folder: string): Promise<{ process: ChildProcess; outcome: string }> {
  const script = `
    const { lockDirectory } = await import(${JSON.stringify(lockModule)});
    try { await lockDirectory(process.argv[1]); console.log("held"); } catch (error) { console.log(error.code); }
    setInterval(() => {}, 1000);`;
  const child = spawn(process.execPath, ["--input-type=module", "-e", script, folder], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  const [chunk] = (await once(child.stdout!, "data")) as [Buffer];
  return { process: child, outcome: chunk.toString().trim() };
}

async function kill(child: ChildProcess): Promise<void> {
  const gone = once(child, "exit");
  child.kill("SIGKILL");
  await gone;
}

test("a second taker is refused, and told the process that holds the directory", async (t) => {
  const folder = temporaryFolder();
  t.after(() => rmSync(folder, { recursive: true }));
  const lock = await lockDirectory(folder);
  await assert.rejects(lockDirectory(folder), isLocked(process.pid));
  await lock.release();
  const again = await lockDirectory(folder);
  await again.release();
  assert.deepEqual(readdirSync(join(folder, "lock")), []);
});

test("the lock of a process killed with -9 is free at once, and nothing is left behind", async (t) => {
  const folder = temporaryFolder();
  t.after(() => rmSync(folder, { recursive: true }));
  const first = await holder(folder);
  assert.equal(first.outcome, "held");
  await assert.rejects(lockDirectory(folder), isLocked(first.process.pid));
  await kill(first.process);
  const lock = await lockDirectory(folder);
  assert.equal(readdirSync(join(folder, "lock")).length, 1);
  await lock.release();
});

test("of several that start together exactly one gets the lock", async (t) => {
  const folder = temporaryFolder();
  t.after(() => rmSync(folder, { recursive: true }));
  const tries = await Promise.allSettled(Array.from({ length: 6 }, () => lockDirectory(folder)));
  assert.equal(tries.filter((one) => one.status === "fulfilled").length, 1);
  for (const one of tries) {
    if (one.status === "fulfilled") await one.value.release();
    else assert.ok(isLocked()(one.reason));
  }
});

test("a directory too deep for a socket's path is locked all the same", async (t) => {
  const folder = temporaryFolder();
  t.after(() => rmSync(folder, { recursive: true }));
  const deep = join(folder, "d".repeat(120));
  const digest = createHash("sha256")
    .update(join(realpathSync(folder), "d".repeat(120)))
    .digest("hex");
  t.after(() => rmdirSync(join(tmpdir(), `cambium-lock-${digest.slice(0, 24)}`)));
  mkdirSync(deep);
  const lock = await lockDirectory(deep);
  await assert.rejects(lockDirectory(deep), isLocked(process.pid));
  await lock.release();
});

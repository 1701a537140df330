/** The commands beside the server: `npm run keys` and `npm run worker`, run as a user runs them. */
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { rmSync } from "node:fs";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { openTestBed } from "./jobs/harness.ts";
import { temporaryFolder } from "./store/fixtures.ts";

interface Ran {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

function run(entry: string, dataDir: string, ...args: string[]): Promise<Ran> {
  const file = fileURLToPath(new URL(`../../src/engine/${entry}`, import.meta.url));
  const env = { PATH: process.env["PATH"] ?? "", DATA_DIR: dataDir, LOG_LEVEL: "silent" };
  return new Promise((resolve) => {
    execFile(process.execPath, [file, ...args], { env, timeout: 60_000 }, (error, stdout, stderr) => {
      resolve({ code: typeof error?.code === "number" ? error.code : error ? -1 : 0, stdout, stderr });
    });
  });
}

test("keys are made by the command, known to the server, and refused while the server holds the data", async (t) => {
  const dataDir = temporaryFolder();
  t.after(() => rmSync(dataDir, { recursive: true, force: true }));
  const created = await run("keys.ts", dataDir, "create", "--name", "ci", "--scopes", "read,write");
  assert.equal(created.code, 0, created.stderr);
  const secret = created.stdout.trim().split("\n").at(-1) ?? "";
  const bed = await openTestBed({ dataDir });
  t.after(() => bed.dispose());
  const key = await bed.services.store.keys.verify(secret);
  assert.equal(key?.name, "ci");
  assert.deepEqual(key.scopes, ["read", "write"]);
  const refused = await run("keys.ts", dataDir, "list");
  assert.equal(refused.code, 1);
  assert.match(refused.stderr, new RegExp(`data_dir_locked.*process ${process.pid}`));
});

test("a wrong command line or scope says what is wanted, and makes no key", async (t) => {
  const dataDir = temporaryFolder();
  t.after(() => rmSync(dataDir, { recursive: true, force: true }));
  const usage = await run("keys.ts", dataDir, "make");
  assert.equal(usage.code, 1);
  assert.match(usage.stderr, /usage: keys create/);
});

test("a worker without a shared database refuses to start, and says why", async (t) => {
  const dataDir = temporaryFolder();
  t.after(() => rmSync(dataDir, { recursive: true, force: true }));
  const { code, stderr } = await run("worker.ts", dataDir);
  assert.equal(code, 1);
  assert.match(stderr, /a worker needs DATABASE_URL/);
});

/** The ENTRY as a process: it says where it listens, obeys signals, and refuses to be reachable without a key. */
import assert from "node:assert/strict";
import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { fileURLToPath } from "node:url";

const entry = fileURLToPath(new URL("../../src/api/server.ts", import.meta.url));
const dataDir = mkdtempSync(join(tmpdir(), "cambium-entry-"));
after(() => rmSync(dataDir, { recursive: true, force: true }));

function start(environment: Record<string, string>): { child: ChildProcess; output: () => string } {
  const env = { PATH: process.env["PATH"] ?? "", DATA_DIR: dataDir, PORT: "0", LOG_LEVEL: "info", ...environment };
  const child = spawn(process.execPath, [entry], { env, stdio: ["ignore", "pipe", "pipe"] });
  let text = "";
  for (const stream of [child.stdout, child.stderr]) stream?.on("data", (chunk: Buffer) => (text += chunk.toString()));
  return { child, output: () => text };
}

/** @returns the address once it is told. */
async function listening({ child, output }: ReturnType<typeof start>): Promise<string> {
  for (let waitedMs = 0; waitedMs < 60_000 && child.exitCode === null; waitedMs += 50) {
    const url = /"url":"([^"]+)"/.exec(output())?.[1];
    if (url !== undefined) return url;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  assert.fail(`it does not listen: ${output()}`);
}

test("SIGTERM stops it with exit code 0, and its data opens again", async () => {
  const server = start({});
  const url = await listening(server);
  assert.equal((await fetch(`${url}/readyz`)).status, 200);
  const exited = once(server.child, "exit");
  server.child.kill("SIGTERM");
  assert.deepEqual(await exited, [0, null]);
  assert.match(server.output(), /"msg":"stopped"/);
});

test("where others can reach it and no key exists, it ends with a message that says what to do", async () => {
  const server = start({ HOST: "0.0.0.0" });
  assert.equal((await once(server.child, "exit"))[0], 1);
  assert.match(server.output(), /npm run keys -- create/);
});

test("a wrong setting is named", async () => {
  const server = start({ PORT: "high" });
  assert.equal((await once(server.child, "exit"))[0], 1);
  assert.match(server.output(), /PORT: got "high"/);
});

test("a data directory that is a file is refused in one sentence, with the reason", async () => {
  const file = join(dataDir, "file");
  writeFileSync(file, "");
  const { child, output } = start({ DATA_DIR: join(file, "data") });
  const [code] = await once(child, "close");
  assert.equal(code, 1);
  assert.match(
    output(),
    /^invalid_request: DATA_DIR: .*file\/data is no folder that can be written to\n {2}because: ENOTDIR/,
  );
});

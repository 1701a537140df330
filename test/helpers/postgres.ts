/**
 * A real PostgreSQL for tests: found on PATH or where Debian puts it, started in a temporary directory on the
 * loopback address, as an unprivileged user where the tests run as root (the server refuses root). Tests skip,
 * with the reason, where there is none.
 */
import { execFile, spawn, type ChildProcess } from "node:child_process";
import { randomBytes } from "node:crypto";
import { chownSync, existsSync, globSync, mkdtempSync, rmSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { delimiter, join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { promisify } from "node:util";
import pg from "pg";

const run = promisify(execFile);
const startTimeoutMs = 30_000;
/** The user "nobody", by convention. */
const unprivilegedId = 65_534;

export interface TestPostgres {
  /** A fresh, empty database. @returns its URL */
  createDatabase(): Promise<string>;
  stop(): Promise<void>;
}

/** Skip option for node:test. */
export function needsPostgres(): { skip: string | false } {
  return { skip: findBinaries() === null ? "no PostgreSQL server on PATH or below /usr/lib/postgresql" : false };
}

export async function startPostgres(): Promise<TestPostgres> {
  const binaries = findBinaries();
  if (binaries === null) throw new Error("no PostgreSQL server on this machine");
  const folder = mkdtempSync(join(tmpdir(), "cambium-postgres-"));
  const isRoot = process.getuid?.() === 0;
  const identity = isRoot ? { uid: unprivilegedId, gid: unprivilegedId } : {};
  if (isRoot) chownSync(folder, unprivilegedId, unprivilegedId);
  const data = join(folder, "data");
  const environment = { PATH: process.env["PATH"] ?? "", LC_ALL: "C", TZ: "UTC" };
  const options = { cwd: folder, env: environment, ...identity };
  await run(join(binaries, "initdb"), ["-D", data, "-U", "test", "-A", "trust", "-E", "UTF8", "--no-sync"], options);
  const port = await freePort();
  const settings = ["listen_addresses=127.0.0.1", "unix_socket_directories=", "fsync=off", "shared_buffers=16MB"];
  const flags = settings.flatMap((setting) => ["-c", setting]);
  // the shell ends the server when its stdin closes, and so when the tests are killed, however that comes
  const tied = '"$@" </dev/null & server=$!; read -r _; kill -QUIT "$server"; wait "$server"';
  const command = [join(binaries, "postgres"), "-D", data, "-p", String(port), ...flags];
  const server = spawn("/bin/sh", ["-c", tied, "sh", ...command], { ...options, stdio: ["pipe", "ignore", "ignore"] });
  const base = `postgres://test@127.0.0.1:${port}`;
  await untilReady(`${base}/postgres`, server);
  return {
    async createDatabase() {
      const name = `test_${randomBytes(6).toString("hex")}`;
      await query(`${base}/postgres`, `create database ${name}`);
      return `${base}/${name}`;
    },
    async stop() {
      const gone = new Promise((resolve) => server.once("exit", resolve));
      if (server.exitCode === null && server.signalCode === null) {
        server.stdin.end();
        await gone;
      }
      rmSync(folder, { recursive: true, force: true });
    },
  };
}

/** Runs one statement on a connection of its own. */
export async function query(url: string, sql: string): Promise<Record<string, unknown>[]> {
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  try {
    return (await client.query(sql)).rows as Record<string, unknown>[];
  } finally {
    await client.end();
  }
}

function findBinaries(): string | null {
  const debian = globSync("/usr/lib/postgresql/*/bin").sort().reverse();
  const folders = [...(process.env["PATH"] ?? "").split(delimiter), ...debian];
  return folders.find((folder) => existsSync(join(folder, "postgres")) && existsSync(join(folder, "initdb"))) ?? null;
}

async function untilReady(url: string, server: ChildProcess): Promise<void> {
  const deadline = Date.now() + startTimeoutMs;
  for (;;) {
    if (server.exitCode !== null) throw new Error(`PostgreSQL exited with code ${server.exitCode}`);
    try {
      await query(url, "select 1");
      return;
    } catch (error) {
      if (Date.now() > deadline) throw error;
      await sleep(100);
    }
  }
}

function freePort(): Promise<number> {
  return new Promise((resolve, reject) => {
    const probe = createServer();
    probe.once("error", reject);
    probe.listen(0, "127.0.0.1", () => {
      const address = probe.address();
      probe.close(() => resolve(typeof address === "object" && address !== null ? address.port : 0));
    });
  });
}

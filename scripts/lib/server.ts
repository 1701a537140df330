/**
 * Starts the service as a user would, for the quickstart and the benches to speak HTTP to, and reads its
 * resident memory where the system tells it.
 */
import { spawn } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const repository = join(dirname(fileURLToPath(import.meta.url)), "..", "..");
const READY_TIMEOUT_MS = 60_000;
const STOP_TIMEOUT_MS = 15_000;

export interface RunningServer {
  readonly url: string;
  readonly pid: number;
  readonly dataDir: string;
  /** Highest resident set of the server process so far, in bytes; null where /proc does not tell. */
  peakRssBytes(): number | null;
  /** Ends it in order, by force after 15 s. */
  stop(): Promise<void>;
}

async function freePort(): Promise<number> {
  const probe = createServer();
  await new Promise<void>((resolve) => probe.listen(0, "127.0.0.1", resolve));
  const address = probe.address();
  await new Promise((resolve) => probe.close(resolve));
  if (address === null || typeof address === "string") throw new Error("no free port on 127.0.0.1");
  return address.port;
}

/**
 * @param env settings beside host and port
 * @param dataDir kept afterwards; without it a temporary one is made, and removed on `stop`
 * @throws Error when the server ends or is not ready in time
 */
export async function startServer(env: Record<string, string>, dataDir?: string): Promise<RunningServer> {
  const directory = dataDir ?? mkdtempSync(join(tmpdir(), "cambium-bench-"));
  const port = await freePort();
  const url = `http://127.0.0.1:${port}`;
  const server = spawn(process.execPath, ["--no-warnings", "src/api/server.ts"], {
    cwd: repository,
    env: { ...process.env, HOST: "127.0.0.1", PORT: String(port), DATA_DIR: directory, LOG_LEVEL: "warn", ...env },
    stdio: ["ignore", "inherit", "inherit"],
  });
  const stop = async (): Promise<void> => {
    if (server.exitCode === null && server.signalCode === null) {
      const exited = new Promise((resolve) => server.once("exit", resolve));
      server.kill("SIGTERM");
      const timer = setTimeout(() => server.kill("SIGKILL"), STOP_TIMEOUT_MS);
      await exited;
      clearTimeout(timer);
    }
    if (dataDir === undefined) rmSync(directory, { recursive: true, force: true });
  };
  for (const deadline = Date.now() + READY_TIMEOUT_MS; Date.now() < deadline;) {
    if (server.exitCode !== null) throw new Error(`the server ended with code ${server.exitCode}`);
    const ready = await fetch(`${url}/readyz`).then(
      (answer) => answer.ok,
      () => false,
    );
    const pid = server.pid ?? 0;
    if (ready) return { url, pid, dataDir: directory, stop, peakRssBytes: () => peakRss(pid) };
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  await stop();
  throw new Error(`the server was not ready within ${READY_TIMEOUT_MS / 1000} s`);
}

function peakRss(pid: number): number | null {
  try {
    const line = /^VmHWM:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, "utf8"));
    return line ? Number(line[1]) * 1024 : null;
  } catch {
    return null;
  }
}

/**
 * The lock on a data directory. PGlite does not lock its files, and two processes on one directory lose rows
 * silently, so the first to come holds the directory for as long as it lives. A holder is a process that
 * listens on a Unix socket of its own below `lock/`: the kernel closes it with the process however that dies,
 * so nothing needs cleaning after a kill -9, and it works across containers that share a volume.
 *
 * Protocol: bind first, look around second. Of two that start together at least one sees the other; where
 * both see each other the greater name steps back, and the smaller waits until it is gone.
 */
import { createHash, randomBytes } from "node:crypto";
import { mkdirSync, readdirSync, realpathSync, rmSync } from "node:fs";
import { connect, createServer, type Server } from "node:net";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { CodedError } from "../../ops/errors.ts";

export interface DirectoryLock {
  release(): Promise<void>;
}

interface Peer {
  readonly pid: number;
  /** `unclear`: somebody listens but gave no answer: busy, or about to be gone. Asked again for a while. */
  readonly state: "waiting" | "held" | "unclear";
}

const maxSocketPathBytes = 100; // sun_path is 108 bytes on Linux, 104 on macOS
const answerTimeoutMs = 2_000;
const contestTimeoutMs = 10_000;
const contestPollMs = 25;
const maxAnswerChars = 200;

/**
 * Takes the lock of `directory`, which must exist.
 * @throws data_dir_locked naming the process that holds it
 */
export async function lockDirectory(directory: string): Promise<DirectoryLock> {
  const folder = lockFolder(directory);
  const name = `${process.pid}-${randomBytes(6).toString("hex")}.sock`;
  const path = join(folder, name);
  let state: Peer["state"] = "waiting";
  const server = createServer((socket) => {
    socket.on("error", () => socket.destroy());
    socket.end(JSON.stringify({ pid: process.pid, state }));
  });
  await listen(server, path);
  server.unref();
  const release = async (): Promise<void> => {
    await new Promise<void>((resolve) => server.close(() => resolve()));
    rmSync(path, { force: true });
  };
  try {
    await outlastOthers(folder, name, directory);
  } catch (error) {
    await release();
    throw error;
  }
  state = "held";
  return { release };
}

/** Waits until no other process contests the lock. @throws data_dir_locked */
async function outlastOthers(folder: string, own: string, directory: string): Promise<void> {
  const deadline = Date.now() + contestTimeoutMs;
  for (;;) {
    let contested = false;
    for (const other of readdirSync(folder)) {
      if (other === own || !other.endsWith(".sock")) continue;
      const peer = await ask(join(folder, other));
      if (peer === null) {
        rmSync(join(folder, other), { force: true }); // its process is gone; names are never used twice
        continue;
      }
      const yields = peer.state === "held" || (peer.state === "waiting" && other < own);
      if (yields || Date.now() > deadline) throw locked(directory, peer.pid);
      contested = true;
    }
    if (!contested) return;
    await sleep(contestPollMs);
  }
}

function locked(directory: string, pid: number): CodedError {
  const message =
    `data directory ${directory} is in use by process ${pid}: stop it, or give this one another DATA_DIR ` +
    `(several processes can share one PostgreSQL by DATABASE_URL)`;
  return new CodedError("data_dir_locked", message, { details: { pid } });
}

/** @returns what the socket's owner says, or null where nobody listens any more. */
function ask(path: string): Promise<Peer | null> {
  return new Promise((resolve) => {
    const unclear: Peer = { pid: Number.parseInt(basename(path), 10) || 0, state: "unclear" };
    const socket = connect(path);
    let answer = "";
    socket.setTimeout(answerTimeoutMs, () => {
      socket.destroy();
      resolve(unclear);
    });
    socket.on("data", (chunk) => {
      if (answer.length < maxAnswerChars) answer += chunk.toString("utf8");
    });
    socket.on("end", () => resolve(parseAnswer(answer) ?? unclear));
    socket.on("error", (error: NodeJS.ErrnoException) => {
      const gone = error.code === "ECONNREFUSED" || error.code === "ENOENT";
      resolve(gone ? null : unclear);
    });
  });
}

function parseAnswer(answer: string): Peer | null {
  try {
    const { pid, state } = JSON.parse(answer) as { pid?: unknown; state?: unknown };
    return typeof pid === "number" && (state === "waiting" || state === "held") ? { pid, state } : null;
  } catch {
    return null;
  }
}

function listen(server: Server, path: string): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once("error", reject);
    server.listen(path, () => {
      server.off("error", reject);
      server.on("error", () => undefined);
      resolve();
    });
  });
}

/** Socket paths are short by nature; a deep data directory gets its folder where temporary files lie. */
function lockFolder(directory: string): string {
  const real = realpathSync(directory);
  const inside = join(real, "lock");
  const longest = join(inside, `${"9".repeat(10)}-${"f".repeat(12)}.sock`);
  const digest = createHash("sha256").update(real).digest("hex").slice(0, 24);
  const folder = Buffer.byteLength(longest) <= maxSocketPathBytes ? inside : join(tmpdir(), `cambium-lock-${digest}`);
  mkdirSync(folder, { recursive: true, mode: 0o700 });
  return folder;
}

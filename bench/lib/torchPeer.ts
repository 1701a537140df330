/** The PyTorch that a bench is compared with: a child process that is asked for one measurement at a time. */
import { spawn } from "node:child_process";
import { createInterface } from "node:readline";
import { setTimeout as pause } from "node:timers/promises";
import { fileURLToPath } from "node:url";

const script = fileURLToPath(new URL("../peer/llama_torch.py", import.meta.url));
const answerTimeoutMs = 600_000;
/** After an answer its BLAS's threads spin for a while, which would take a processor from the row that is next. */
const settleMs = 300;

export interface TorchPeer {
  /** PyTorch's version and its BLAS. */
  readonly name: string;
  /** It can compute on a GPU. */
  readonly cuda: boolean;
  ask(request: Readonly<Record<string, unknown>>): Promise<Record<string, number>>;
  close(): void;
}

/** @param python with torch @returns null where it has none */
export async function openTorchPeer(python: string): Promise<TorchPeer | null> {
  // Threads that spin while they wait would take the processors from BLAS's own, and from the other rows.
  const env = { ...process.env, OMP_WAIT_POLICY: "passive" };
  const child = spawn(python, ["-u", script], { stdio: ["pipe", "pipe", "ignore"], env });
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  child.on("error", () => undefined);
  child.stdin.on("error", () => undefined);
  const ask = async (request: object): Promise<Record<string, unknown>> => {
    child.stdin.write(`${JSON.stringify(request)}\n`);
    const timer = setTimeout(() => child.kill(), answerTimeoutMs);
    const { value, done } = await lines.next();
    clearTimeout(timer);
    if (done) throw new Error(`${python} with torch ended or was silent for ${answerTimeoutMs} ms`);
    return JSON.parse(value as string) as Record<string, unknown>;
  };
  try {
    const { name, blas, sdpa, cuda } = await ask({ op: "info" });
    const attention = sdpa === true ? "SDPA" : "no SDPA";
    return {
      name: `${String(name)} (${String(blas)}; ${attention})`,
      cuda: cuda === true,
      async ask(request) {
        const answer = (await ask(request)) as Record<string, number>;
        await pause(settleMs);
        return answer;
      },
      close: () => void child.kill(),
    };
  } catch {
    child.kill();
    return null;
  }
}

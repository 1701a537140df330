/**
 * 200 clients on one small model of a running server, for as long as one likes: are their texts those of a quiet
 * server, does the line stay within its bound, does everybody get something, does memory stay where it is, and is
 * nothing left when they have gone? Prints what it saw.
 */
import { readFileSync } from "node:fs";
import type { RunningServer } from "../../scripts/lib/server.ts";
import { crowd, metric, stream } from "./inferenceLoad.ts";
import type { Ask } from "./inferenceLoad.ts";
import { median } from "./model.ts";
import { modelsOf } from "./processTimes.ts";

const clients = 200;
const numAsks = 40;
const watchMs = 500;
const mebibyte = 2 ** 20;

/** @returns resident bytes; 0 where /proc does not tell. */
function rssOf(pid: number): number {
  try {
    return Number(/^VmRSS:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1] ?? 0) * 1024;
  } catch {
    return 0;
  }
}

/** @param askOf the request with this number; one number, one text */
export async function manyClients(server: RunningServer, seconds: number, askOf: (i: number) => Ask): Promise<void> {
  const { url, pid } = server;
  const asks = Array.from({ length: numAsks }, (_, i) => askOf(i));
  const expected: string[] = [];
  for (const one of asks) expected.push((await stream(url, one)).text);
  const models = modelsOf(pid);
  const seen: { queued: number; active: number; server: number; models: number }[] = [];
  const look = async (): Promise<void> => {
    const [queued, active] = [await metric(url, "cambium_serving_queued"), await metric(url, "cambium_serving_active")];
    const ofModels = modelsOf(pid).reduce((sum, model) => sum + rssOf(model), 0);
    seen.push({ queued, active, server: rssOf(pid), models: ofModels });
  };
  const watch = setInterval(() => void look(), watchMs);
  const result = await crowd(url, asks, expected, { clients, seconds, seed: 1 });
  clearInterval(watch);
  await new Promise((resolve) => setTimeout(resolve, 1000));
  const left = [await metric(url, "cambium_serving_queued"), await metric(url, "cambium_serving_active")];
  const { completed, left: gone, turnedAway, wrong, failures } = result;
  const shares = [...result.completedBy].sort((a, b) => a - b);
  console.log(`\n${clients} clients for ${seconds} s: ${completed} texts, ${wrong} wrong; ${gone} hung up;`);
  console.log(`  ${turnedAway} told 429 with Retry-After; other failures: ${JSON.stringify(failures)}`);
  console.log(`  texts a client: ${shares[0]} at least, ${median(shares)} in the middle, ${shares.at(-1)} at most`);
  const most = (name: "queued" | "active"): number => Math.max(...seen.map((one) => one[name]));
  console.log(`  at most ${most("queued")} waiting and ${most("active")} running; ${left.join(" and ")} afterwards`);
  for (const name of ["server", "models"] as const) {
    const quarters = [0, 1, 2, 3].map((quarter) => {
      const part = seen.slice((quarter * seen.length) / 4, ((quarter + 1) * seen.length) / 4);
      return (median(part.map((one) => one[name])) / mebibyte).toFixed(0);
    });
    console.log(`  resident MiB of the ${name}, median of each quarter: ${quarters.join(", ")}`);
  }
  const same = JSON.stringify(models) === JSON.stringify(modelsOf(pid));
  console.log(`  ${same ? "one model process all along" : "model processes were replaced"}`);
}

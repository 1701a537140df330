/** What a request and a token of a stream take of the server's processor, beside a model so small that it takes little. */
import type { RunningServer } from "../../scripts/lib/server.ts";
import { complete, keptConnections, stream } from "./inferenceLoad.ts";
import type { Ask } from "./inferenceLoad.ts";
import { median } from "./model.ts";
import { cpuSeconds } from "./processTimes.ts";

const clients = 8;
const requests = 400;
const streams = 40;
const streamTokens = 200;

/** @param ask a request for so many tokens, of a number that no other has */
export async function requestCosts(
  { url, pid }: RunningServer,
  rounds: number,
  ask: (number: number, maxTokens: number) => Ask,
): Promise<void> {
  const agent = keptConnections();
  const [whole, streamed]: number[][] = [[], []];
  let number = 0;
  for (let round = -1; round < rounds; round++) {
    const each = await costs(pid, requests, () => complete(url, ask(number++, 1), agent));
    const ofStream = await costs(pid, streams, () => stream(url, ask(number++, streamTokens)));
    if (round < 0) continue;
    whole!.push(each);
    streamed!.push(ofStream / streamTokens);
  }
  agent.destroy();
  console.log(`  the server's processor, ${clients} clients`);
  console.log(`    a request for one token    ${median(whole!).toFixed(2)} ms`);
  console.log(`    a token of a stream of ${streamTokens} ${median(streamed!).toFixed(3)} ms`);
}

/** @returns milliseconds of the server for each. */
async function costs(pid: number, count: number, one: () => Promise<unknown>): Promise<number> {
  const before = cpuSeconds(pid).server;
  let left = count;
  await Promise.all(
    Array.from({ length: clients }, async () => {
      while (left-- > 0) await one();
    }),
  );
  return ((cpuSeconds(pid).server - before) * 1000) / count;
}

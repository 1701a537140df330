/**
 * Serving under load: `OPENBLAS_CORETYPE=SKYLAKEX node bench/serve.ts --shape m --backends native,wasm --rounds 5
 * --crowd 60`. A server as a user starts it, a random model of the shape, clients in this process; for each
 * backend in one run and interleaved:
 *
 * - tokens/s of 16 requests at once beside those of one, prompts of 32 tokens and answers of 96, as streams with
 *   log-probabilities and as answers in one piece; and what a token takes of the processors in each process;
 * - the request rate at which 16 clients that always ask saturate it, then the time to first token when requests come
 *   at random times (Poisson) at half of that rate, beside that of a request alone (`--load 0` leaves it out);
 * - with `--costs N`, N rounds of what requests and tokens take of the server (`lib/requestCosts.ts`);
 * - with `--shared N`, N rounds of prompts that begin alike (`lib/sharedPrompts.ts`).
 *
 * All of it on a server that has been at work for a while: prompts have used its whole budget of caches once, whose
 * memory the system hands out at the first write (`--fresh yes` leaves that out).
 *
 * With `--crowd N`, 200 clients for N seconds on a small model, a third of which hang up (`lib/manyClients.ts`);
 * `--backends none --crowd 60` is that alone.
 */
import { cpus } from "node:os";
import { startServer } from "../scripts/lib/server.ts";
import type { RunningServer } from "../scripts/lib/server.ts";
import { complete, keptConnections, stream, uniform } from "./lib/inferenceLoad.ts";
import type { Ask } from "./lib/inferenceLoad.ts";
import { manyClients } from "./lib/manyClients.ts";
import { median, optionsOf, shapes } from "./lib/model.ts";
import { cpuSeconds, millisecondsEach } from "./lib/processTimes.ts";
import { requestCosts } from "./lib/requestCosts.ts";
import { sharedPrompts } from "./lib/sharedPrompts.ts";

const options = optionsOf({
  shape: "m",
  backends: "native,wasm",
  rounds: "5",
  load: "15",
  shared: "0",
  costs: "0",
  crowd: "0",
  fresh: "no",
});
const together = 16;
const numberOf = (name: keyof typeof options): number => Number(options[name]);
const [rounds, loadSeconds, crowdSeconds] = [numberOf("rounds"), numberOf("load"), numberOf("crowd")];
const [sharedRounds, costRounds] = [numberOf("shared"), numberOf("costs")];

async function register(url: string, name: string, shape: (typeof shapes)[string]): Promise<void> {
  const config = {
    architectures: ["LlamaForCausalLM"],
    model_type: "llama",
    hidden_act: "silu",
    hidden_size: shape.D,
    intermediate_size: shape.F,
    num_hidden_layers: shape.L,
    num_attention_heads: shape.heads,
    num_key_value_heads: shape.heads,
    vocab_size: shape.V,
    max_position_embeddings: 2048,
    rms_norm_eps: 1e-5,
    tie_word_embeddings: false,
    initializer_range: 0.02,
  };
  const answer = await fetch(`${url}/v1/checkpoints`, {
    method: "POST",
    headers: { "content-type": "application/json", prefer: "wait=120" },
    body: JSON.stringify({ name, source: { type: "random", config, seed: 1, tokenizer: "bytes" } }),
  });
  if (!answer.ok) throw new Error(`checkpoint: ${answer.status} ${await answer.text()}`);
}

/** @returns ids that begin as those of another seed do for hardly any pair of seeds. */
function ids(seed: number, count: number, vocab: number): number[] {
  const random = uniform(seed);
  return Array.from({ length: count }, () => Math.floor(random() * vocab));
}

function ask(number: number, promptTokens: number, maxTokens: number, vocab: number): Ask {
  const prompt = ids(number, promptTokens, vocab);
  return { model: "bench", prompt, max_tokens: maxTokens, temperature: 1, seed: number };
}

/** How a client asks. */
interface Way {
  readonly title: string;
  ask(url: string, ask: Ask): Promise<{ readonly tokens: number }>;
}

const agent = keptConnections();
const ways: readonly Way[] = [
  { title: "streams with log-probabilities", ask: stream },
  { title: "answers in one piece", ask: (url, ask) => complete(url, ask, agent) },
];

/** One request, then 16 at once, again and again; and what a token takes of the processors in server, model, client. */
async function throughput({ url, pid }: RunningServer, vocab: number, way: Way): Promise<void> {
  const counts = [1, together] as const;
  const rates = counts.map(() => [] as number[]);
  const costs = counts.map(() => "");
  for (const [which, count] of counts.entries()) await run(-1, which, count);
  for (let round = 0; round < rounds; round++) {
    for (const [which, count] of counts.entries()) await run(round, which, count);
  }
  async function run(round: number, which: number, count: number): Promise<void> {
    const [before, startedAt] = [cpuSeconds(pid), performance.now()];
    // One request alone is asked four times: the clock of the processes' times is coarse.
    const repeats = count === 1 ? 4 : 1;
    let tokens = 0;
    for (let i = 0; i < repeats; i++) {
      const asks = Array.from({ length: count }, (_, j) => ask((round + 1) * 100 + i * count + j, 32, 96, vocab));
      const answers = await Promise.all(asks.map((one) => way.ask(url, one)));
      tokens += answers.reduce((sum, answer) => sum + answer.tokens, 0);
    }
    if (round < 0) return;
    rates[which]!.push((tokens / (performance.now() - startedAt)) * 1000);
    costs[which] = millisecondsEach(before, cpuSeconds(pid), tokens);
  }
  const [one = [], many = []] = rates;
  console.log(`  ${way.title}`);
  console.log(`    one request             ${median(one).toFixed(0).padStart(6)} tokens/s`);
  console.log(`    ${together} requests at once     ${median(many).toFixed(0).padStart(6)} tokens/s`);
  const ratios = many.map((value, i) => value / one[i]!);
  console.log(`    ratio, median of rounds ${median(ratios).toFixed(2).padStart(6)}`);
  console.log(`    CPU ms a token, one     ${costs[0]!}`);
  console.log(`    CPU ms a token, ${together}      ${costs[1]!}`);
}

/** Prompts that differ, until the model's caches, of 1 GiB, have all been written once. */
async function useCaches(url: string, { D, L, V }: (typeof shapes)[string]): Promise<void> {
  const promptTokens = 1500;
  const positions = 2 ** 30 / (2 * L * D * 4);
  const startedAt = performance.now();
  for (let number = 0; number * promptTokens < 1.2 * positions; number++) {
    await complete(url, ask(5000 + number, promptTokens, 1, V), agent);
  }
  const seconds = (performance.now() - startedAt) / 1000;
  console.log(
    `  ${Math.ceil(1.2 * positions)} tokens of prompts, so that all caches were used once: ${seconds.toFixed(1)} s`,
  );
}

async function latency(url: string, vocab: number): Promise<void> {
  const shape = [64, 32] as const;
  const idle: number[] = [];
  const loaded: number[] = [];
  let number = 1000;
  const idleRun = async (count: number): Promise<void> => {
    for (let i = 0; i < count; i++) idle.push((await stream(url, ask(number++, ...shape, vocab))).firstTokenMs);
  };
  await idleRun(8);
  const startedAt = performance.now();
  let completed = 0;
  await Promise.all(
    Array.from({ length: together }, async () => {
      for (; performance.now() - startedAt < loadSeconds * 400; completed++) {
        await stream(url, ask(number++, ...shape, vocab));
      }
    }),
  );
  const saturation = completed / ((performance.now() - startedAt) / 1000);
  const random = uniform(7);
  const runs: Promise<unknown>[] = [];
  for (let at = 0; at < loadSeconds * 1000;) {
    const wait = (-Math.log(1 - random()) / (saturation / 2)) * 1000;
    at += wait;
    await new Promise((resolve) => setTimeout(resolve, wait));
    runs.push(stream(url, ask(number++, ...shape, vocab)).then((run) => loaded.push(run.firstTokenMs)));
  }
  await Promise.all(runs);
  await idleRun(8);
  const p90 = [...loaded].sort((a, b) => a - b)[Math.floor(loaded.length * 0.9)] ?? NaN;
  console.log(`  saturation                ${saturation.toFixed(1).padStart(6)} requests/s (64 tokens in, 32 out)`);
  console.log(`  first token, idle         ${median(idle).toFixed(1).padStart(6)} ms`);
  console.log(
    `  first token, half rate    ${median(loaded).toFixed(1).padStart(6)} ms (${loaded.length} requests, 90 % within ${p90.toFixed(1)} ms)`,
  );
  console.log(`  ratio of medians          ${(median(loaded) / median(idle)).toFixed(2).padStart(6)}`);
}

console.log(`${cpus()[0]?.model ?? "unknown CPU"}, ${cpus().length} cores, Node ${process.versions.node}`);
const shape = shapes[options["shape"]!]!;
for (const backend of options["backends"]!.split(",").filter((name) => name !== "none")) {
  const server = await startServer({ BACKENDS: `${backend},wasm`, SERVING_MAX_BATCH: "32" });
  try {
    await register(server.url, "bench", shape);
    console.log(`\nshape ${options["shape"]!}, backend ${backend}`);
    if (options["fresh"] === "no") await useCaches(server.url, shape);
    if (rounds > 0) for (const way of ways) await throughput(server, shape.V, way);
    if (loadSeconds > 0) await latency(server.url, shape.V);
    if (costRounds > 0) await requestCosts(server, costRounds, (number, count) => ask(number, 8, count, shape.V));
    if (sharedRounds > 0) await sharedPrompts(server.url, sharedRounds, (seed, count) => ids(seed, count, shape.V));
  } finally {
    await server.stop();
  }
}
if (crowdSeconds > 0) {
  const server = await startServer({ BACKENDS: "wasm" });
  try {
    await register(server.url, "bench", { ...shapes["s"]!, D: 64, L: 2, heads: 4, F: 172, V: 512 });
    await manyClients(server, crowdSeconds, (i) => ask(i, 1 + ((i * 7) % 50), 20 + ((i * 13) % 130), 512));
  } finally {
    await server.stop();
  }
}

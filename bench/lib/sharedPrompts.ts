/**
 * What prompts that begin alike cost: eight choices of one prompt beside eight prompts, and a prompt whose beginning
 * was read for another request beside one that is new. Both of a pair in one run, in turns.
 */
import { median } from "./model.ts";

export interface ChoicesAsk {
  readonly model: string;
  readonly prompt: readonly number[] | readonly (readonly number[])[];
  readonly n: number;
  readonly max_tokens: number;
  readonly seed: number;
}

interface Chunk {
  readonly choices: readonly {
    readonly index: number;
    readonly logprobs: { readonly tokens: readonly string[] } | null;
  }[];
}

interface Answered {
  /** Until the first token of any choice, ms. */
  readonly firstMs: number;
  /** Until each choice had its first token. */
  readonly allFirstMs: number;
  readonly tokensPerSecond: number;
}

const promptTokens = 512;
const ownTokens = 16;
const choices = 8;
const answerTokens = 32;

/** @param prompt makes `count` ids that no other `seed` begins with */
export async function sharedPrompts(
  url: string,
  rounds: number,
  prompt: (seed: number, count: number) => number[],
): Promise<void> {
  let seed = 50_000;
  const ask = (prompts: ChoicesAsk["prompt"], n: number, maxTokens: number): Promise<Answered> =>
    askAll(url, { model: "bench", prompt: prompts, n, max_tokens: maxTokens, seed: 1 });
  const made = { one: [] as Answered[], many: [] as Answered[], fresh: [] as Answered[], known: [] as Answered[] };
  for (let round = -1; round < rounds; round++) {
    const one = await ask(prompt(seed++, promptTokens), choices, answerTokens);
    const others = Array.from({ length: choices }, () => prompt(seed++, promptTokens));
    const many = await ask(others, 1, answerTokens);
    const beginning = prompt(seed++, promptTokens);
    const fresh = await ask([...beginning, ...prompt(seed++, ownTokens)], 1, 8);
    const known = await ask([...beginning, ...prompt(seed++, ownTokens)], 1, 8);
    if (round < 0) continue;
    for (const [name, answered] of Object.entries({ one, many, fresh, known })) {
      made[name as keyof typeof made].push(answered);
    }
  }
  console.log(`  prompts of ${promptTokens} tokens, ${choices} answers of ${answerTokens}`);
  tell("one prompt, n = 8", made.one);
  tell("eight prompts", made.many);
  console.log(`  prompts of ${promptTokens + ownTokens} tokens, first token`);
  console.log(
    `    all new                ${median(made.fresh.map(({ firstMs }) => firstMs))
      .toFixed(1)
      .padStart(7)} ms`,
  );
  console.log(
    `    ${promptTokens} of them read before ${median(made.known.map(({ firstMs }) => firstMs))
      .toFixed(1)
      .padStart(6)} ms`,
  );
}

function tell(title: string, answered: readonly Answered[]): void {
  const of = (name: keyof Answered, digits: number): string =>
    median(answered.map((one) => one[name]))
      .toFixed(digits)
      .padStart(7);
  const first = `first token ${of("firstMs", 1)} ms, of all ${of("allFirstMs", 1)} ms`;
  console.log(`    ${title.padEnd(18)} ${of("tokensPerSecond", 0)} tokens/s, ${first}`);
}

async function askAll(url: string, ask: ChoicesAsk): Promise<Answered> {
  const startedAt = performance.now();
  const response = await fetch(`${url}/v1/completions`, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ ...ask, temperature: 1, stream: true, logprobs: 0 }),
  });
  if (response.status !== 200 || !response.body) throw new Error(`${response.status} ${await response.text()}`);
  const firstAt = new Map<number, number>();
  let tokens = 0;
  let rest = "";
  for await (const part of response.body.pipeThrough(new TextDecoderStream())) {
    const lines = (rest + part).split("\n");
    rest = lines.pop() ?? "";
    for (const line of lines) {
      if (!line.startsWith("data: {")) continue;
      const { index, logprobs } = (JSON.parse(line.slice(6)) as Chunk).choices[0]!;
      tokens += logprobs?.tokens.length ?? 0;
      if (!firstAt.has(index) && logprobs) firstAt.set(index, performance.now() - startedAt);
    }
  }
  const seconds = (performance.now() - startedAt) / 1000;
  const firsts = [...firstAt.values()];
  return { firstMs: Math.min(...firsts), allFirstMs: Math.max(...firsts), tokensPerSecond: tokens / seconds };
}

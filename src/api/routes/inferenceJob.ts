/**
 * What completions and chat have in common: prompts as token ids, and for each of them `n` choices, generated
 * together. How they are shown is told in `inferenceCompletion.ts` and `inferenceChat.ts`.
 */
import { randomInt } from "node:crypto";
import type { GenerateRequest } from "../../engine/infer/servedModel.ts";
import type { ModelPool } from "../../engine/serving/types.ts";
import type { Tokenizer } from "../../engine/tokenizer/tokenizer.ts";
import type { Schemas } from "../handlers.ts";
import type { ChoiceDelta } from "./inferenceChoice.ts";
import { readChoice } from "./inferenceChoice.ts";
import type { InferenceModel } from "./inferenceModel.ts";
import { inParallel } from "./inferenceParallel.ts";
import type { Prompt } from "./inferencePrompt.ts";
import { scoredOnce } from "./inferenceScores.ts";

export interface InferenceJob {
  readonly model: InferenceModel;
  readonly tokenizer: Tokenizer | null;
  readonly prompts: readonly Prompt[];
  /** Choices per prompt. */
  readonly n: number;
  /** Null for a random one. */
  readonly seed: number | null;
  readonly stops: readonly string[];
  readonly stopIds: readonly number[];
  readonly settings: Pick<GenerateRequest, "maxTokens" | "temperature" | "topP" | "logprobs" | "echo">;
  /** Whether the answer is a stream. */
  readonly streams: boolean;
  readonly pool: ModelPool;
  /** Aborted when nobody wants the answer any more. */
  readonly signal: AbortSignal;
}

export interface IndexedDelta extends ChoiceDelta {
  /** Prompt number x n + choice number. */
  readonly index: number;
}

/** Choices of one request that are generated at the same time: a request with many leaves room for others. */
const maxParallelChoices = 8;

/** @returns the deltas of all choices; those of one are in order. @throws what generating throws */
export async function* choiceDeltas(job: InferenceJob): AsyncGenerator<IndexedDelta> {
  // 48 bits: the most that Node draws without bias.
  const seed = job.seed ?? randomInt(2 ** 48 - 1);
  const left = new AbortController();
  const signal = AbortSignal.any([job.signal, left.signal]);
  const { maxPositionEmbeddings } = job.model.checkpoint.manifest.config;
  const sources = job.prompts.flatMap((prompt, number) => {
    const ask = scoredOnce(
      // What comes after the first of all belongs to work that was let in.
      (request, index) => job.pool.generate(job.model.checkpoint, request, signal, index > 0),
      maxPositionEmbeddings,
    );
    return Array.from({ length: job.n }, (_, choice) => () => {
      const index = number * job.n + choice;
      const events = ask(requestOf(job, prompt, seedOf(seed, choice)), index);
      return indexed(index, readChoice(choiceOptions(job, prompt), events));
    });
  });
  yield* inParallel(sources, maxParallelChoices, () => left.abort());
}

async function* indexed(index: number, deltas: AsyncIterable<ChoiceDelta>): AsyncGenerator<IndexedDelta> {
  for await (const delta of deltas) yield { ...delta, index };
}

function choiceOptions({ tokenizer, stops, settings }: InferenceJob, prompt: Prompt) {
  return { tokenizer, prompt, stops, echo: settings.echo, withLogprobs: settings.logprobs !== null };
}

function requestOf(job: InferenceJob, prompt: Prompt, seed: number): GenerateRequest {
  const { stops, stopIds, settings, streams } = job;
  // A stop string is seen here, and ends what is computed: the sooner the better.
  const gather = !streams && stops.length === 0;
  return { ...settings, promptIds: prompt.ids, seed, stopIds, gather };
}

/** Each choice of a prompt has a seed of its own; negative seeds, which OpenAI allows, wrap into [0, 2^53). */
function seedOf(seed: number, choice: number): number {
  const sum = BigInt(seed) + BigInt(choice);
  return Number(BigInt.asUintN(53, sum));
}

/** What became of one choice. */
export interface WholeChoice {
  readonly index: number;
  readonly text: string;
  readonly entries: ChoiceDelta["entries"];
  readonly finish: "stop" | "length";
}

/** Counts what an answer cost, delta by delta. */
export class UsageCount {
  readonly #job: InferenceJob;
  readonly #cached: number[];
  #completionTokens = 0;

  constructor(job: InferenceJob) {
    this.#job = job;
    this.#cached = job.prompts.flatMap(() => Array.from({ length: job.n }, () => 0));
  }

  add({ index, tokens, cached }: IndexedDelta): void {
    this.#completionTokens += tokens;
    if (cached !== undefined) this.#cached[index] = cached;
  }

  /** A prompt counts once whatever its choices are, and as cached what none of them had to compute. */
  get usage(): Schemas["CompletionUsage"] {
    const { prompts, n } = this.#job;
    const promptTokens = prompts.reduce((sum, prompt) => sum + prompt.ids.length, 0);
    const cachedTokens = prompts.reduce((sum, _, i) => sum + Math.min(...this.#cached.slice(i * n, (i + 1) * n)), 0);
    return {
      prompt_tokens: promptTokens,
      completion_tokens: this.#completionTokens,
      total_tokens: promptTokens + this.#completionTokens,
      prompt_tokens_details: { cached_tokens: cachedTokens },
    };
  }
}

/** @returns all choices by their index, and what they cost. */
export async function wholeChoices(
  job: InferenceJob,
  deltas: AsyncIterable<IndexedDelta>,
): Promise<{ choices: WholeChoice[]; usage: Schemas["CompletionUsage"] }> {
  const parts: { text: string[]; entries: ChoiceDelta["entries"][number][] }[] = [];
  const choices: WholeChoice[] = [];
  const count = new UsageCount(job);
  for await (const delta of deltas) {
    const { index, text, entries, finish } = delta;
    const part = (parts[index] ??= { text: [], entries: [] });
    part.text.push(text);
    part.entries.push(...entries);
    count.add(delta);
    if (finish !== null) choices.push({ index, text: part.text.join(""), entries: part.entries, finish });
  }
  choices.sort((a, b) => a.index - b.index);
  return { choices, usage: count.usage };
}

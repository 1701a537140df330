/**
 * A completion in its two forms: one JSON document, or OpenAI's stream of chunks. Choices are made one after the
 * other (prompt by prompt, `n` each), so one request never holds more than one place on its model.
 */
import { randomInt, randomUUID } from "node:crypto";
import type { GenerateEvent, GenerateRequest } from "../../engine/infer/servedModel.ts";
import type { ModelPool } from "../../engine/serving/types.ts";
import type { Tokenizer } from "../../engine/tokenizer/tokenizer.ts";
import type { Schemas } from "../handlers.ts";
import type { ChoiceDelta } from "./inferenceChoice.ts";
import { readChoice } from "./inferenceChoice.ts";
import { presentLogprobs } from "./inferenceLogprobs.ts";
import type { InferenceModel } from "./inferenceModel.ts";
import type { Prompt } from "./inferencePrompt.ts";

export interface CompletionJob {
  readonly body: Schemas["CompletionRequest"];
  readonly model: InferenceModel;
  readonly tokenizer: Tokenizer | null;
  readonly prompts: readonly Prompt[];
  readonly pool: ModelPool;
  readonly signal: AbortSignal;
}

interface IndexedDelta extends ChoiceDelta {
  readonly index: number;
}

/** @returns the deltas of all choices, in order. @throws what generating throws */
export async function* completionDeltas(job: CompletionJob): AsyncGenerator<IndexedDelta> {
  const { body, tokenizer, prompts } = job;
  // 48 bits: the most that Node draws without bias.
  const seed = body.seed ?? randomInt(2 ** 48 - 1);
  for (const [promptIndex, prompt] of prompts.entries()) {
    for (let choice = 0; choice < body.n; choice++) {
      const index = promptIndex * body.n + choice;
      const events = generateChoice(job, prompt, seedOf(seed, choice), index > 0);
      const stops = typeof body.stop === "string" ? [body.stop] : (body.stop ?? []);
      const options = { tokenizer, prompt, stops, echo: body.echo, withLogprobs: body.logprobs !== null };
      for await (const delta of readChoice(options, events)) yield { ...delta, index };
    }
  }
}

function generateChoice(
  job: CompletionJob,
  prompt: Prompt,
  seed: number,
  continued: boolean,
): AsyncIterable<GenerateEvent> {
  const { body, model, tokenizer, pool, signal } = job;
  const { eosTokenIds } = model.checkpoint.manifest.config;
  const ends = tokenizer?.eosTokenId ?? null;
  const request: GenerateRequest = {
    promptIds: prompt.ids,
    maxTokens: body.max_tokens,
    temperature: body.temperature,
    topP: body.top_p,
    seed,
    stopIds: [...new Set([...eosTokenIds, ...(ends === null ? [] : [ends])])],
    logprobs: body.logprobs,
    echo: body.echo,
  };
  return pool.generate(model.checkpoint, request, signal, continued);
}

/** Each choice of a prompt has a seed of its own; negative seeds, which OpenAI allows, wrap into [0, 2^53). */
function seedOf(seed: number, choice: number): number {
  const sum = BigInt(seed) + BigInt(choice);
  return Number(BigInt.asUintN(53, sum));
}

/** @returns the whole completion. */
export async function wholeCompletion(
  job: CompletionJob,
  deltas: AsyncIterable<IndexedDelta>,
): Promise<Schemas["Completion"]> {
  const choices: Schemas["CompletionChoice"][] = [];
  const parts: { text: string[]; entries: ChoiceDelta["entries"][number][] }[] = [];
  let completionTokens = 0;
  for await (const delta of deltas) {
    const part = (parts[delta.index] ??= { text: [], entries: [] });
    part.text.push(delta.text);
    part.entries.push(...delta.entries);
    completionTokens += delta.tokens;
    if (delta.finish === null) continue;
    choices.push({
      index: delta.index,
      text: part.text.join(""),
      finish_reason: delta.finish,
      logprobs: job.body.logprobs === null ? null : presentLogprobs(part.entries),
    });
  }
  return { ...completionHead(job), choices, usage: usageOf(job, completionTokens) };
}

/** @returns the chunks of a stream; with `include_usage` a last one without choices tells the token counts. */
export async function* completionChunks(
  job: CompletionJob,
  deltas: AsyncIterable<IndexedDelta>,
): AsyncGenerator<Schemas["Completion"]> {
  const head = completionHead(job);
  const withUsage = job.body.stream_options?.include_usage === true;
  let completionTokens = 0;
  for await (const { index, text, entries, finish, tokens } of deltas) {
    completionTokens += tokens;
    if (text === "" && entries.length === 0 && finish === null) continue;
    const logprobs = entries.length === 0 ? null : presentLogprobs(entries);
    const choices = [{ index, text, finish_reason: finish, logprobs }];
    yield { ...head, choices, ...(withUsage ? { usage: null } : {}) };
  }
  if (withUsage) yield { ...head, choices: [], usage: usageOf(job, completionTokens) };
}

function completionHead({ body }: CompletionJob): Omit<Schemas["Completion"], "choices"> {
  const created = Math.floor(Date.now() / 1000);
  return { id: `cmpl-${randomUUID()}`, object: "text_completion", created, model: body.model };
}

function usageOf({ prompts }: CompletionJob, completionTokens: number): Schemas["CompletionUsage"] {
  const promptTokens = prompts.reduce((sum, prompt) => sum + prompt.ids.length, 0);
  return {
    prompt_tokens: promptTokens,
    completion_tokens: completionTokens,
    total_tokens: promptTokens + completionTokens,
  };
}

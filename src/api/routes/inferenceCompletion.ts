/** A completion in its two forms: one JSON document, or OpenAI's stream of chunks. */
import { randomUUID } from "node:crypto";
import type { Schemas } from "../handlers.ts";
import type { IndexedDelta, InferenceJob } from "./inferenceJob.ts";
import { usageOf, wholeChoices } from "./inferenceJob.ts";
import { presentLogprobs } from "./inferenceLogprobs.ts";

/** How the answer is to look. */
export interface Presentation {
  /** As the client called it. */
  readonly model: string;
  readonly withLogprobs: boolean;
  /** A stream ends with a chunk of token counts. */
  readonly withUsage: boolean;
}

/** @returns the whole completion. */
export async function wholeCompletion(
  job: InferenceJob,
  { model, withLogprobs }: Presentation,
  deltas: AsyncIterable<IndexedDelta>,
): Promise<Schemas["Completion"]> {
  const { choices, completionTokens } = await wholeChoices(deltas);
  return {
    ...head(model),
    choices: choices.map(({ index, text, entries, finish }) => {
      return { index, text, finish_reason: finish, logprobs: withLogprobs ? presentLogprobs(entries) : null };
    }),
    usage: usageOf(job, completionTokens),
  };
}

/** @returns the chunks of a stream; with `withUsage` a last one without choices tells the token counts. */
export async function* completionChunks(
  job: InferenceJob,
  { model, withUsage }: Presentation,
  deltas: AsyncIterable<IndexedDelta>,
): AsyncGenerator<Schemas["Completion"]> {
  const start = head(model);
  let completionTokens = 0;
  for await (const { index, text, entries, finish, tokens } of deltas) {
    completionTokens += tokens;
    if (text === "" && entries.length === 0 && finish === null) continue;
    const logprobs = entries.length === 0 ? null : presentLogprobs(entries);
    const choices = [{ index, text, finish_reason: finish, logprobs }];
    yield { ...start, choices, ...(withUsage ? { usage: null } : {}) };
  }
  if (withUsage) yield { ...start, choices: [], usage: usageOf(job, completionTokens) };
}

function head(model: string): Omit<Schemas["Completion"], "choices"> {
  return { id: `cmpl-${randomUUID()}`, object: "text_completion", created: Math.floor(Date.now() / 1000), model };
}

/** A completion in its two forms: one JSON document, or OpenAI's stream of chunks. */
import { randomUUID } from "node:crypto";
import type { Schemas } from "../handlers.ts";
import type { IndexedDelta, InferenceJob } from "./inferenceJob.ts";
import { UsageCount, wholeChoices } from "./inferenceJob.ts";
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
  const { choices, usage } = await wholeChoices(job, deltas);
  return {
    ...head(model),
    choices: choices.map(({ index, text, entries, finish }) => {
      return { index, text, finish_reason: finish, logprobs: withLogprobs ? presentLogprobs(entries) : null };
    }),
    usage,
  };
}

/** @returns the chunks of a stream; with `withUsage` a last one without choices tells the token counts. */
export async function* completionChunks(
  job: InferenceJob,
  { model, withUsage }: Presentation,
  deltas: AsyncIterable<IndexedDelta>,
): AsyncGenerator<Schemas["Completion"]> {
  const start = head(model);
  const count = new UsageCount(job);
  for await (const delta of deltas) {
    count.add(delta);
    const { index, text, entries, finish } = delta;
    if (text === "" && entries.length === 0 && finish === null) continue;
    const logprobs = entries.length === 0 ? null : presentLogprobs(entries);
    const choices = [{ index, text, finish_reason: finish, logprobs }];
    yield { ...start, choices, ...(withUsage ? { usage: null } : {}) };
  }
  if (withUsage) yield { ...start, choices: [], usage: count.usage };
}

function head(model: string): Omit<Schemas["Completion"], "choices"> {
  return { id: `cmpl-${randomUUID()}`, object: "text_completion", created: Math.floor(Date.now() / 1000), model };
}

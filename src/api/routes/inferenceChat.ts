/**
 * A conversation: as the text of the checkpoint's own chat template, and its answer in OpenAI's two forms, one JSON
 * document or a stream of chunks. The role comes in a chunk of its own before a choice's first words, as OpenAI's does.
 */
import { randomUUID } from "node:crypto";
import type { Tokenizers } from "../../engine/serving/tokenizers.ts";
import type { Tokenizer } from "../../engine/tokenizer/tokenizer.ts";
import { CodedError } from "../../ops/errors.ts";
import type { Schemas } from "../handlers.ts";
import type { IndexedDelta, InferenceJob } from "./inferenceJob.ts";
import { UsageCount, wholeChoices } from "./inferenceJob.ts";
import { presentChatLogprobs } from "./inferenceLogprobs.ts";
import type { Presentation } from "./inferenceCompletion.ts";

/**
 * @returns the text that the model is to continue
 * @throws unprocessable when the checkpoint has no chat template, or it fails; timeout, out_of_memory
 */
export async function renderConversation(
  messages: readonly Schemas["ChatMessage"][],
  { id, tokenizer, addGenerationPrompt }: { id: string; tokenizer: Tokenizer; addGenerationPrompt: boolean },
  tokenizers: Tokenizers,
): Promise<string> {
  const template = tokenizer.chatTemplate;
  if (template === null) {
    const where = "neither chat_template.jinja nor chat_template in tokenizer_config.json";
    throw new CodedError("unprocessable", `${id} has no chat template (${where}): use /v1/completions`);
  }
  const { specialTokens } = tokenizer;
  const flat = messages.map(({ role, content }) => ({ role, content: textOf(content) }));
  return tokenizers.render({ template, messages: flat, addGenerationPrompt, specialTokens });
}

/** Parts are lines of one text, as in vLLM. */
function textOf(content: Schemas["ChatMessage"]["content"]): string {
  return typeof content === "string" ? content : content.map(({ text }) => text).join("\n");
}

/** @returns the whole answer. */
export async function wholeChat(
  job: InferenceJob,
  { model, withLogprobs }: Presentation,
  deltas: AsyncIterable<IndexedDelta>,
): Promise<Schemas["ChatCompletion"]> {
  const { choices, usage } = await wholeChoices(job, deltas);
  return {
    ...head(model),
    object: "chat.completion",
    choices: choices.map(({ index, text, entries, finish }) => ({
      index,
      message: { role: "assistant", content: text, refusal: null },
      finish_reason: finish,
      logprobs: withLogprobs ? presentChatLogprobs(entries) : null,
    })),
    usage,
  };
}

/** @returns the chunks of a stream; with `withUsage` a last one without choices tells the token counts. */
export async function* chatChunks(
  job: InferenceJob,
  { model, withUsage }: Presentation,
  deltas: AsyncIterable<IndexedDelta>,
): AsyncGenerator<Schemas["ChatCompletionChunk"]> {
  const start = { ...head(model), object: "chat.completion.chunk" } as const;
  const usage = withUsage ? { usage: null } : {};
  const opened = new Set<number>();
  const count = new UsageCount(job);
  for await (const delta of deltas) {
    count.add(delta);
    if (delta.cached !== undefined) continue;
    const { index, text, entries, finish } = delta;
    if (!opened.has(index)) {
      opened.add(index);
      const role = { role: "assistant", content: "" } as const;
      yield { ...start, choices: [{ index, delta: role, finish_reason: null, logprobs: null }], ...usage };
    }
    if (text === "" && entries.length === 0 && finish === null) continue;
    const logprobs = entries.length === 0 ? null : presentChatLogprobs(entries);
    const words = text === "" ? {} : { content: text };
    yield { ...start, choices: [{ index, delta: words, finish_reason: finish, logprobs }], ...usage };
  }
  if (withUsage) yield { ...start, choices: [], usage: count.usage };
}

function head(model: string) {
  return { id: `chatcmpl-${randomUUID()}`, created: Math.floor(Date.now() / 1000), model };
}

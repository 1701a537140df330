/**
 * The forms of `prompt` (a text, texts, ids, lists of ids) as a list of token-id prompts that the model can take,
 * judged before any model is loaded. Texts get the special tokens that the tokenizer adds by default (BOS, for a
 * Llama), as in vLLM; ids are taken verbatim.
 */
import { CodedError } from "../../ops/errors.ts";
import type { Tokenizers } from "../../engine/serving/tokenizers.ts";
import type { Schemas } from "../handlers.ts";
import type { InferenceModel } from "./inferenceModel.ts";

export interface Prompt {
  readonly ids: readonly number[];
  /** As it was given; null for ids. */
  readonly text: string | null;
}

/** All texts of one request together, in UTF-16 units: what the tokenizer may be kept busy with. */
export const maxPromptLength = 4 * 1024 * 1024;

/**
 * @param scored whether the prompt itself is scored, which lets it be one token longer than the context
 * @throws invalid_request with pointers, unprocessable for a text where the checkpoint has no tokenizer
 */
export async function readPrompts(
  prompt: Schemas["CompletionPrompt"],
  scored: boolean,
  model: InferenceModel,
  tokenizers: Tokenizers,
): Promise<Prompt[]> {
  const single = typeof prompt === "string" || typeof prompt[0] === "number";
  const list = (single ? [prompt] : prompt) as readonly (string | number[])[];
  const ids = await idsOf(list, model, tokenizers);
  const { maxPositionEmbeddings, vocabSize } = model.checkpoint.manifest.config;
  const longest = maxPositionEmbeddings + (scored ? 1 : 0);
  return list.map((given, index) => {
    const pointer = single ? "/prompt" : `/prompt/${index}`;
    const tokens = ids[index] ?? [];
    if (tokens.length === 0) throw wrong(pointer, "has no tokens; at least 1 is needed");
    if (tokens.length > longest) {
      throw wrong(pointer, `has ${tokens.length} tokens; the context of ${model.row.id} takes at most ${longest}`);
    }
    const bad = tokens.findIndex((id) => id >= vocabSize);
    if (bad >= 0) {
      const detail = `is id ${tokens[bad]}; ids of ${model.row.id} are 0 to ${vocabSize - 1}`;
      throw wrong(`${pointer}/${bad}`, detail);
    }
    return { ids: tokens, text: typeof given === "string" ? given : null };
  });
}

async function idsOf(
  list: readonly (string | number[])[],
  model: InferenceModel,
  tokenizers: Tokenizers,
): Promise<readonly (readonly number[])[]> {
  const texts = list.filter((given) => typeof given === "string");
  if (texts.length === 0) return list as number[][];
  if (model.tokenizer === null) throw wrong("/prompt", `must be token ids: ${model.row.id} has no tokenizer`);
  checkLength(texts);
  return tokenizers.encode(model.tokenizer, texts, true);
}

/** @throws invalid_request */
export function checkLength(texts: readonly string[]): void {
  const length = texts.reduce((sum, text) => sum + text.length, 0);
  if (length <= maxPromptLength) return;
  throw wrong("/prompt", `has ${length} characters; at most ${maxPromptLength} are taken`);
}

/** @returns a conversation's ids. @throws invalid_request when no room is left for an answer */
export function chatPrompt(ids: readonly number[], model: InferenceModel): Prompt {
  const { maxPositionEmbeddings, vocabSize } = model.checkpoint.manifest.config;
  if (ids.length === 0)
    throw wrong("/messages", "are no tokens in the checkpoint's chat template; at least 1 is needed");
  if (ids.length > maxPositionEmbeddings) {
    throw wrong(
      "/messages",
      `are ${ids.length} tokens; the context of ${model.row.id} takes at most ${maxPositionEmbeddings}`,
    );
  }
  const bad = ids.find((id) => id >= vocabSize);
  if (bad !== undefined) throw wrong("/messages", `hold id ${bad}; ids of ${model.row.id} are 0 to ${vocabSize - 1}`);
  return { ids, text: null };
}

export function wrong(pointer: string, detail: string): CodedError {
  return new CodedError("invalid_request", `${pointer.slice(1)} ${detail}`, { fields: [{ pointer, detail }] });
}

/**
 * Log-probabilities in the legacy form of OpenAI's completions, which is what lm-evaluation-harness reads: four
 * lists of equal length. A token's own value is the very number that stands in `top_logprobs`, so clients may
 * compare for equality; where two ids have the same text the larger value is kept.
 */
import type { Tokenizer } from "../../engine/tokenizer/tokenizer.ts";
import { unknownTokenText } from "../../engine/tokenizer/tokenizer.ts";
import type { TokenLogprobs } from "../../engine/infer/servedModel.ts";
import type { Schemas } from "../handlers.ts";

/** One position of the four lists. */
export interface LogprobEntry {
  readonly token: string;
  readonly logprob: number | null;
  readonly top: Record<string, number> | null;
  /** Code points of the choice's text before this token. */
  readonly offset: number;
}

/** @returns the text of an id as the API shows single tokens. */
export function tokenText(tokenizer: Tokenizer | null, id: number): string {
  return tokenizer === null ? unknownTokenText(id) : tokenizer.tokenText(id);
}

/** @param logprobs null for the first token of a prompt, which nothing precedes */
export function logprobEntry(
  tokenizer: Tokenizer | null,
  id: number,
  logprobs: TokenLogprobs | null,
  offset: number,
): LogprobEntry {
  const token = tokenText(tokenizer, id);
  if (logprobs === null) return { token, logprob: null, top: null, offset };
  // No prototype: a token may spell `__proto__`.
  const top = Object.create(null) as Record<string, number>;
  for (const [other, value] of [[id, logprobs.logprob] as const, ...logprobs.top]) {
    const text = tokenText(tokenizer, other);
    top[text] = Math.max(top[text] ?? -Infinity, value);
  }
  return { token, logprob: logprobs.logprob, top, offset };
}

export function presentLogprobs(entries: readonly LogprobEntry[]): Schemas["CompletionLogprobs"] {
  return {
    tokens: entries.map((entry) => entry.token),
    token_logprobs: entries.map((entry) => entry.logprob),
    top_logprobs: entries.map((entry) => entry.top),
    text_offset: entries.map((entry) => entry.offset),
  };
}

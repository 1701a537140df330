/**
 * Log-probabilities in OpenAI's two forms. That of completions, which lm-evaluation-harness reads, is four lists of
 * equal length: a token's own value is the very number that stands in `top_logprobs`, so clients may compare for
 * equality; where two ids have the same text the larger value is kept. That of chat is one list of objects.
 */
import type { Tokenizer } from "../../engine/tokenizer/tokenizer.ts";
import { unknownTokenText } from "../../engine/tokenizer/tokenizer.ts";
import type { TokenLogprobs } from "../../engine/infer/servedModel.ts";
import type { Schemas } from "../handlers.ts";

interface Alternative {
  readonly token: string;
  readonly logprob: number;
}

/** One position. */
export interface LogprobEntry {
  readonly token: string;
  /** Null for the first token of a prompt, which nothing precedes; so is `top`. */
  readonly logprob: number | null;
  /** The most probable tokens, best first. */
  readonly top: readonly Alternative[] | null;
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
  const top = logprobs.top.map(([other, logprob]) => ({ token: tokenText(tokenizer, other), logprob }));
  return { token, logprob: logprobs.logprob, top, offset };
}

export function presentLogprobs(entries: readonly LogprobEntry[]): Schemas["CompletionLogprobs"] {
  return {
    tokens: entries.map((entry) => entry.token),
    token_logprobs: entries.map((entry) => entry.logprob),
    top_logprobs: entries.map(topByText),
    text_offset: entries.map((entry) => entry.offset),
  };
}

function topByText({ token, logprob, top }: LogprobEntry): Record<string, number> | null {
  if (logprob === null || top === null) return null;
  // No prototype: a token may spell `__proto__`.
  const byText = Object.create(null) as Record<string, number>;
  for (const other of [{ token, logprob }, ...top]) {
    byText[other.token] = Math.max(byText[other.token] ?? -Infinity, other.logprob);
  }
  return byText;
}

export function presentChatLogprobs(entries: readonly LogprobEntry[]): Schemas["ChatLogprobs"] {
  const content = entries.map(({ token, logprob, top }) => ({
    ...presentAlternative({ token, logprob: logprob ?? 0 }),
    top_logprobs: (top ?? []).map(presentAlternative),
  }));
  return { content, refusal: null };
}

function presentAlternative({ token, logprob }: Alternative): Schemas["ChatAlternative"] {
  return { token, logprob, bytes: bytesOf(token) };
}

/** The bytes of a token as the API shows it; null for one that stands for no text. */
function bytesOf(token: string): number[] | null {
  if (/^bytes:(\\x[0-9a-f]{2})+$/.test(token)) return [...Buffer.from(token.slice(6).replaceAll("\\x", ""), "hex")];
  if (/^token_id:\d+$/.test(token)) return null;
  return [...Buffer.from(token)];
}

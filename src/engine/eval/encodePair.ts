/**
 * Turns requests into token ids as lm-evaluation-harness does. Two profiles, because the harness itself changed:
 * `none` adds no special token (HF backend up to 0.4.9.1, and the API backend), `tokenizer` adds what the
 * tokenizer adds by default (HF backend since 0.4.9.2), unless the text already begins with that token; a
 * rolling text then begins with BOS after a BOS. Source: lm_eval/api/model.py `_encode_pair`,
 * lm_eval/models/huggingface.py.
 */
import { CodedError } from "../../ops/errors.ts";
import type { Tokenizer } from "../tokenizer/tokenizer.ts";
import { trimEnd } from "./pythonText.ts";
import type { Window } from "./windows.ts";

export type BosProfile = "none" | "tokenizer";

/**
 * @returns the token before an empty context: BOS, or EOS where there is none
 * @throws tokenizer_invalid where there is neither
 */
export function prefixToken(tokenizer: Tokenizer): number {
  const prefix = tokenizer.bosTokenId ?? tokenizer.eosTokenId;
  if (prefix !== null) return prefix;
  throw new CodedError("tokenizer_invalid", "the tokenizer has neither a bos_token nor an eos_token to begin with");
}

/** @returns the ids of a text in a profile. */
export function encodeText(text: string, tokenizer: Tokenizer, profile: BosProfile): number[] {
  if (profile === "none") return tokenizer.encode(text, { addSpecialTokens: false });
  const prefixText = tokenizer.decode([prefixToken(tokenizer)], { skipSpecialTokens: false });
  const hasPrefix = prefixText !== "" && text.startsWith(prefixText);
  return tokenizer.encode(text, { addSpecialTokens: !hasPrefix });
}

/** @returns `encodeText` that remembers its last text: the choices of a question share their context. */
export function createContextEncoder(tokenizer: Tokenizer, profile: BosProfile): (text: string) => readonly number[] {
  let last: { readonly text: string; readonly ids: readonly number[] } | null = null;
  return (text) => {
    if (last?.text !== text) last = { text, ids: encodeText(text, tokenizer, profile) };
    return last.ids;
  };
}

/**
 * Splits the encoding of context and continuation together where the context's own encoding ends; white space
 * at the end of the context goes to the continuation first.
 * @param encodeContext for pairs that share a context
 * @throws tokenizer_invalid for an empty context without a prefix token
 */
export function encodePair(
  context: string,
  continuation: string,
  tokenizer: Tokenizer,
  profile: BosProfile,
  encodeContext = createContextEncoder(tokenizer, profile),
): Window {
  if (context === "") {
    const prefix = prefixToken(tokenizer);
    const ids = tokenizer.encode(continuation, { addSpecialTokens: false });
    const own = ids[0] === prefix;
    return { context: own ? ids.slice(0, 1) : [prefix], continuation: own ? ids.slice(1) : ids };
  }
  const bare = trimEnd(context);
  const whole = encodeText(context + continuation, tokenizer, profile);
  const contextIds = encodeContext(bare);
  return { context: contextIds, continuation: whole.slice(contextIds.length) };
}

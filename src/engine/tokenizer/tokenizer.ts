/**
 * What a tokenizer is to the rest of the service: text to ids and back, and the few facts about its special
 * tokens. Two implementations exist: a Hugging Face tokenizer.json (`huggingFaceTokenizer.ts`) and plain
 * bytes (`bytesTokenizer.ts`). It is not a trainer of tokenizers, and it knows nothing of models; whether the
 * two fit is asked with `checkVocabulary`.
 */
import { CodedError } from "../../ops/errors.ts";

export interface EncodeOptions {
  /** Add what the tokenizer's post-processor adds (a beginning-of-sequence token, for Llama). */
  readonly addSpecialTokens: boolean;
}

export interface DecodeOptions {
  /** Leave special tokens such as `<s>` out of the text. */
  readonly skipSpecialTokens: boolean;
}

/** The strings of the special tokens, as `GET /tokenizer_info` reports them; null for those there are none of. */
export interface SpecialTokens {
  readonly bosToken: string | null;
  readonly eosToken: string | null;
  readonly unkToken: string | null;
  readonly padToken: string | null;
}

export interface Tokenizer {
  readonly kind: "bytes" | "huggingface";
  /** One more than the largest token id. */
  readonly vocabSize: number;
  readonly bosTokenId: number | null;
  readonly eosTokenId: number | null;
  readonly specialTokens: SpecialTokens;
  /** `tokenizer_class` of tokenizer_config.json, verbatim; null where there is none. */
  readonly className: string | null;
  /** Jinja source of the chat template, verbatim, or null. Never rendered here. */
  readonly chatTemplate: string | null;
  /** `model_max_length` of tokenizer_config.json; null where absent or the "no limit" sentinel. */
  readonly modelMaxLength: number | null;
  /** @returns token ids of the text; a lone surrogate in it counts as U+FFFD. */
  encode(text: string, options: EncodeOptions): number[];
  /** @returns the text of the ids; ids outside the vocabulary are left out, bytes that are not UTF-8 become U+FFFD. */
  decode(ids: readonly number[], options: DecodeOptions): string;
  /**
   * @returns one token as the completions API shows it: its own text, `bytes:\xNN` where its bytes alone are not
   * UTF-8, `token_id:N` for an id outside the vocabulary.
   */
  tokenText(id: number): string;
  /** @returns one token as the vocabulary spells it (`\u0120hello`), `token_id:N` for an id outside it. */
  tokenName(id: number): string;
  /** @returns whether the id is a special token, which `skipSpecialTokens` leaves out. */
  isSpecial(id: number): boolean;
}

/**
 * Checks that every id the tokenizer makes is a row of the model's embedding. A model may have more rows than
 * the tokenizer has tokens (padding); the reverse would read outside the table.
 * @throws tokenizer_invalid
 */
export function checkVocabulary(tokenizer: Tokenizer, modelVocabSize: number): void {
  if (tokenizer.vocabSize <= modelVocabSize) return;
  const problem = `the tokenizer has ${tokenizer.vocabSize} tokens, the model's vocab_size is ${modelVocabSize}`;
  throw new CodedError("tokenizer_invalid", `${problem}: it must not be smaller`);
}

const strictUtf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** @returns bytes as a token string: their text, or `bytes:\xNN\xNN` where they are not UTF-8 by themselves. */
export function bytesToTokenText(bytes: Uint8Array): string {
  try {
    return strictUtf8.decode(bytes);
  } catch {
    return `bytes:${Array.from(bytes, (byte) => `\\x${byte.toString(16).padStart(2, "0")}`).join("")}`;
  }
}

/** @returns how the completions API shows an id that stands for no text. */
export function unknownTokenText(id: number): string {
  return `token_id:${id}`;
}

/**
 * The tokenizer that needs no file: a token is a byte of UTF-8. Ids 0 to 255 are the byte values, 256 is the
 * beginning of a sequence, 257 its end; so a model over bytes has `vocab_size` 258 or more. Special tokens are
 * never made from text: the string `<|bos|>` is seven bytes. With `addSpecialTokens` a text begins with 256.
 */
import type { DecodeOptions, EncodeOptions, SpecialTokens, Tokenizer } from "./tokenizer.ts";
import { bytesToTokenText, unknownTokenText } from "./tokenizer.ts";

export const bytesBosTokenId = 256;
export const bytesEosTokenId = 257;
/** The smallest `vocab_size` of a model over bytes. */
export const bytesVocabSize = 258;

const specialTokens: SpecialTokens = { bosToken: "<|bos|>", eosToken: "<|eos|>", unkToken: null, padToken: null };
const encoder = new TextEncoder();
const decoder = new TextDecoder("utf-8", { ignoreBOM: true });

function encode(text: string, options: EncodeOptions): number[] {
  const bytes = encoder.encode(text);
  return options.addSpecialTokens ? [bytesBosTokenId, ...bytes] : Array.from(bytes);
}

function decode(ids: readonly number[], options: DecodeOptions): string {
  let text = "";
  let bytes: number[] = [];
  const flush = (): void => {
    text += decoder.decode(Uint8Array.from(bytes));
    bytes = [];
  };
  for (const id of ids) {
    if (id >= 0 && id < 256) bytes.push(id);
    else if (!options.skipSpecialTokens && isSpecial(id)) {
      flush();
      text += tokenText(id);
    }
  }
  flush();
  return text;
}

function isSpecial(id: number): boolean {
  return id === bytesBosTokenId || id === bytesEosTokenId;
}

function tokenText(id: number): string {
  if (id === bytesBosTokenId) return specialTokens.bosToken ?? "";
  if (id === bytesEosTokenId) return specialTokens.eosToken ?? "";
  return Number.isInteger(id) && id >= 0 && id < 256 ? bytesToTokenText(Uint8Array.of(id)) : unknownTokenText(id);
}

/** @returns the bytes tokenizer; it has no state. */
export function createBytesTokenizer(): Tokenizer {
  return {
    kind: "bytes",
    vocabSize: bytesVocabSize,
    bosTokenId: bytesBosTokenId,
    eosTokenId: bytesEosTokenId,
    specialTokens,
    className: null,
    chatTemplate: null,
    modelMaxLength: null,
    encode,
    decode,
    tokenText,
    // A byte has no other name.
    tokenName: tokenText,
    isSpecial,
  };
}

/**
 * Makes Llama-style BPE fast without changing one id. Such a tokenizer has no pre-tokenizer, so a whole
 * document is a single "word" to BPE and nothing can be cached. But where no token of the vocabulary holds a
 * word mark (U+2581) after any other character, no merge can ever cross the point before a word mark that
 * follows something else; BPE of the parts is then BPE of the whole. This file proves that from the
 * vocabulary and, only then, adds a pre-tokenizer that cuts there.
 */
import type { JsonObject, JsonValue } from "../../ops/manifest.ts";
import type { ParsedTokenizerJson } from "./tokenizerJson.ts";
import { isObject } from "./tokenizerJson.ts";

const wordMark = "\u2581";

/** Word marks and what follows them, up to the next word mark that comes after something else. */
const splitAtWords: JsonObject = {
  type: "Split",
  pattern: { Regex: `${wordMark}*[^${wordMark}]+|${wordMark}+` },
  behavior: "Isolated",
  invert: false,
};

function isWholeText(preTokenizer: JsonValue | undefined): boolean {
  if (preTokenizer === undefined || preTokenizer === null) return true;
  if (!isObject(preTokenizer) || preTokenizer["type"] !== "Metaspace") return false;
  return preTokenizer["split"] === false && (preTokenizer["replacement"] ?? wordMark) === wordMark;
}

/** @returns whether cutting before each word mark that follows another character cannot change the encoding. */
function wordsAreIndependent(parsed: ParsedTokenizerJson): boolean {
  const model = parsed.json["model"];
  if (!isObject(model) || parsed.modelType !== "BPE") return false;
  // A whole text found in the vocabulary, or a suffix on the last piece, would see the cut.
  if (model["ignore_merges"] === true || model["end_of_word_suffix"]) return false;
  const vocab = model["vocab"];
  if (!isObject(vocab) || !Object.hasOwn(vocab, wordMark)) return false;
  const crossing = new RegExp(`[^${wordMark}]${wordMark}`, "u");
  return !Object.keys(vocab).some((token) => crossing.test(token));
}

/** @returns the pre-tokenizer to use: the file's own, with a cut at words added where that is proved exact. */
export function fastPreTokenizer(parsed: ParsedTokenizerJson): JsonValue {
  const own = parsed.json["pre_tokenizer"] ?? null;
  if (!isWholeText(own) || !wordsAreIndependent(parsed)) return own;
  return own === null ? splitAtWords : { type: "Sequence", pretokenizers: [own, splitAtWords] };
}

/**
 * A tokenizer read from `tokenizer.json`. Text to ids is the work of `@huggingface/tokenizers`; ids to text is
 * ours (`decoder.ts` says why). `tokenizer_config.json` and `special_tokens_map.json` only tell which special
 * token plays which part; what is added to a text is the post-processor's business, as in the Rust library.
 * `clean_up_tokenization_spaces` is not applied: it loses text.
 */
import { Tokenizer as Library } from "@huggingface/tokenizers";
import type { JsonObject, JsonValue } from "../../ops/manifest.ts";
import { byteLevelBytes, createDecoder, fallbackByte } from "./decoder.ts";
import type { DecodeOptions, EncodeOptions, SpecialTokens, Tokenizer } from "./tokenizer.ts";
import { bytesToTokenText, unknownTokenText } from "./tokenizer.ts";
import type { ParsedTokenizerJson } from "./tokenizerJson.ts";
import { invalid, isObject, maxTokenizerConfigBytes, parseJsonFile, parseTokenizerJson } from "./tokenizerJson.ts";
import { fastPreTokenizer } from "./wordSplit.ts";

/** Contents of the files; only tokenizer.json is needed. */
export interface TokenizerFiles {
  readonly tokenizerJson: string | Uint8Array;
  readonly tokenizerConfigJson?: string | Uint8Array | undefined;
  readonly specialTokensMap?: string | Uint8Array | undefined;
  /** chat_template.jinja; it goes before the template of tokenizer_config.json. */
  readonly chatTemplate?: string | Uint8Array | undefined;
}

/** Tried in order when no file names the end-of-sequence token. */
const knownEosTokens = ["</s>", "<|endoftext|>", "<|end_of_text|>", "<eos>", "<|eos|>"];
/** Tried in order when no file names the beginning-of-sequence token. */
const knownBosTokens = ["<s>", "<|begin_of_text|>", "<bos>", "<|bos|>"];
/** transformers writes 1e30 where a tokenizer knows no limit; nothing above this is a context length. */
const largestModelMaxLength = 2 ** 31;

/** A special token is given as a string or as `{ content }`. */
function tokenContent(value: JsonValue | undefined): string | null {
  if (typeof value === "string") return value;
  return isObject(value) && typeof value["content"] === "string" ? value["content"] : null;
}

function findSpecialTokens(parsed: ParsedTokenizerJson, config: JsonObject, map: JsonObject): SpecialTokens {
  const special = new Set(parsed.addedTokens.filter((token) => token.special).map((token) => token.content));
  const named = (field: string): string | null => tokenContent(config[field]) ?? tokenContent(map[field]);
  const known = (list: string[]): string | null => list.find((token) => special.has(token)) ?? null;
  return {
    bosToken: named("bos_token") ?? known(knownBosTokens),
    eosToken: named("eos_token") ?? known(knownEosTokens),
    unkToken: named("unk_token") ?? parsed.unkToken,
    padToken: named("pad_token"),
  };
}

function textOf(content: string | Uint8Array): string {
  return typeof content === "string" ? content : new TextDecoder().decode(content);
}

/** The default chat template; a list of named ones has it under `default`. */
function findChatTemplate(config: JsonObject): string | null {
  const template = config["chat_template"];
  if (typeof template === "string") return template;
  if (!Array.isArray(template)) return null;
  const entry = template.find((item) => isObject(item) && item["name"] === "default");
  return isObject(entry) && typeof entry["template"] === "string" ? entry["template"] : null;
}

function findModelMaxLength(config: JsonObject): number | null {
  const value = config["model_max_length"];
  const usable = typeof value === "number" && Number.isInteger(value) && value > 0 && value < largestModelMaxLength;
  return usable ? value : null;
}

/** Longer than any class is called. */
const maxClassName = 200;

function findClassName(config: JsonObject): string | null {
  const value = config["tokenizer_class"];
  return typeof value === "string" && value.length > 0 && value.length <= maxClassName ? value : null;
}

function createLibrary(parsed: ParsedTokenizerJson): Library {
  const json = {
    ...parsed.json,
    normalizer: parsed.json["normalizer"] ?? null,
    pre_tokenizer: fastPreTokenizer(parsed),
    post_processor: parsed.json["post_processor"] ?? null,
    decoder: null,
    added_tokens: parsed.json["added_tokens"] ?? [],
  };
  try {
    return new Library(json, {});
  } catch (error) {
    throw invalid(`tokenizer.json: not usable (${error instanceof Error ? error.message : "unknown"})`, error);
  }
}

/** Whether the model's tokens are spelled in GPT-2's byte characters. */
function hasByteLevelDecoder(decoder: JsonValue | undefined): boolean {
  if (!isObject(decoder)) return false;
  if (decoder["type"] === "ByteLevel") return true;
  const inner = decoder["decoders"];
  return Array.isArray(inner) && inner.some(hasByteLevelDecoder);
}

function makeTokenText(parsed: ParsedTokenizerJson): (id: number) => string {
  const byteLevel = hasByteLevelDecoder(parsed.json["decoder"]);
  const added = new Set(parsed.addedTokens.map((token) => token.id));
  return (id) => {
    const token = parsed.tokenById.get(id);
    if (token === undefined) return unknownTokenText(id);
    if (added.has(id)) return token;
    if (byteLevel) return bytesToTokenText(byteLevelBytes(token));
    const byte = fallbackByte(token);
    return byte === null ? token.replaceAll("\u2581", " ") : bytesToTokenText(Uint8Array.of(byte));
  };
}

function makeEncode(library: Library, vocabSize: number): (text: string, options: EncodeOptions) => number[] {
  return (text, options) => {
    const { ids } = library.encode(text.toWellFormed(), { add_special_tokens: options.addSpecialTokens });
    for (const id of ids as unknown[]) {
      // The library answers undefined for a character that is neither in the vocabulary nor has an unknown token.
      if (typeof id !== "number" || id >= vocabSize) {
        throw invalid("the tokenizer has no token for a part of the text, and no unknown token to stand for it");
      }
    }
    return ids;
  };
}

/**
 * Builds a tokenizer from its files.
 * @throws tokenizer_invalid when a file is not what it should be
 */
export function createHuggingFaceTokenizer(files: TokenizerFiles): Tokenizer {
  const parsed = parseTokenizerJson(files.tokenizerJson);
  const readOptional = (name: string, content: string | Uint8Array | undefined): JsonObject =>
    content === undefined ? {} : parseJsonFile(name, content, maxTokenizerConfigBytes);
  const config = readOptional("tokenizer_config.json", files.tokenizerConfigJson);
  const specialTokens = findSpecialTokens(
    parsed,
    config,
    readOptional("special_tokens_map.json", files.specialTokensMap),
  );
  const library = createLibrary(parsed);
  const decodeTokens = createDecoder(parsed.json["decoder"]);
  const special = new Set(parsed.addedTokens.filter((token) => token.special).map((token) => token.id));
  const idByContent = new Map(Array.from(parsed.tokenById, ([id, token]) => [token, id]));
  const idOf = (token: string | null): number | null => (token === null ? null : (idByContent.get(token) ?? null));
  let vocabSize = 0;
  for (const id of parsed.tokenById.keys()) vocabSize = Math.max(vocabSize, id + 1);

  function decode(ids: readonly number[], options: DecodeOptions): string {
    const tokens: string[] = [];
    for (const id of ids) {
      const token = parsed.tokenById.get(id);
      if (token !== undefined && !(options.skipSpecialTokens && special.has(id))) tokens.push(token);
    }
    return decodeTokens(tokens);
  }

  return {
    kind: "huggingface",
    vocabSize,
    bosTokenId: idOf(specialTokens.bosToken),
    eosTokenId: idOf(specialTokens.eosToken),
    specialTokens,
    className: findClassName(config),
    chatTemplate: files.chatTemplate === undefined ? findChatTemplate(config) : textOf(files.chatTemplate),
    modelMaxLength: findModelMaxLength(config),
    encode: makeEncode(library, vocabSize),
    decode,
    tokenText: makeTokenText(parsed),
    tokenName: (id) => parsed.tokenById.get(id) ?? unknownTokenText(id),
    isSpecial: (id) => special.has(id),
  };
}

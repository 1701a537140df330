/**
 * Reads `tokenizer.json` and its companions at the edge: outside text becomes checked values or the error
 * `tokenizer_invalid`. It checks what the tokenizer library takes for granted (types, ids, merges that name
 * known tokens, nesting), so that a hostile file cannot make it loop, overflow or hand out ids that are not
 * integers. It interprets nothing: that is `huggingFaceTokenizer.ts` and `decoder.ts`.
 */
import { CodedError } from "../../ops/errors.ts";
import type { JsonObject, JsonValue } from "../../ops/manifest.ts";

/** The largest tokenizer.json read, bytes; the largest published ones are near 35 MB. */
export const maxTokenizerJsonBytes = 64 * 1024 * 1024;
/** The largest tokenizer_config.json or special_tokens_map.json read, bytes. */
export const maxTokenizerConfigBytes = 8 * 1024 * 1024;
export const maxChatTemplateBytes = 1024 * 1024;
/** Ids must be below this: no embedding of a model is larger. */
export const maxTokenId = 1 << 24;
/** Levels of nesting accepted outside vocabulary and merges. */
const maxDepth = 16;

export interface AddedToken {
  readonly id: number;
  readonly content: string;
  readonly special: boolean;
}

/** A tokenizer.json whose vocabulary, merges and added tokens are known to be consistent. */
export interface ParsedTokenizerJson {
  readonly json: JsonObject;
  readonly modelType: string;
  /** Every token by id, added tokens included; ids may have holes. */
  readonly tokenById: ReadonlyMap<number, string>;
  readonly addedTokens: readonly AddedToken[];
  readonly unkToken: string | null;
}

export function invalid(message: string, cause?: unknown): CodedError {
  return new CodedError("tokenizer_invalid", message, { cause });
}

/** @returns whether the value is a JSON object (not null, not a list). */
export function isObject(value: unknown): value is JsonObject {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/**
 * Parses one JSON file of a tokenizer.
 * @param name for messages, e.g. `tokenizer.json`
 * @throws tokenizer_invalid when it is too large, not UTF-8, not JSON or not an object
 */
export function parseJsonFile(name: string, content: string | Uint8Array, maxBytes: number): JsonObject {
  if (content.length > maxBytes) throw invalid(`${name}: ${content.length} bytes, at most ${maxBytes} are read`);
  let value: unknown;
  try {
    const text = typeof content === "string" ? content : new TextDecoder("utf-8", { fatal: true }).decode(content);
    value = JSON.parse(text);
  } catch (error) {
    throw invalid(`${name}: not valid JSON in UTF-8`, error);
  }
  if (!isObject(value)) throw invalid(`${name}: a JSON object is wanted`);
  return value;
}

function checkDepth(name: string, value: JsonValue | undefined, depth = 0): void {
  if (depth > maxDepth) throw invalid(`tokenizer.json: ${name} is nested more than ${maxDepth} levels deep`);
  if (typeof value !== "object" || value === null) return;
  for (const inner of Object.values(value)) checkDepth(name, inner, depth + 1);
}

function checkId(what: string, id: unknown): number {
  if (typeof id === "number" && Number.isInteger(id) && id >= 0 && id < maxTokenId) return id;
  throw invalid(`tokenizer.json: ${what} has id ${String(id)}, an integer from 0 to ${maxTokenId - 1} is wanted`);
}

function quote(text: string): string {
  return JSON.stringify(text.length > 60 ? `${text.slice(0, 60)}...` : text);
}

function readVocabulary(model: JsonObject): Map<string, number> {
  const idByToken = new Map<string, number>();
  const vocab = model["vocab"];
  if (Array.isArray(vocab)) {
    // Unigram: a list of [token, score]; the id is the index.
    vocab.forEach((entry, id) => {
      const [token, score] = Array.isArray(entry) ? entry : [];
      if (typeof token !== "string" || typeof score !== "number") {
        throw invalid(`tokenizer.json: model.vocab[${id}] must be a pair of a string and a number`);
      }
      idByToken.set(token, checkId(`token ${quote(token)}`, id));
    });
  } else if (isObject(vocab)) {
    for (const [token, id] of Object.entries(vocab)) idByToken.set(token, checkId(`token ${quote(token)}`, id));
  } else throw invalid("tokenizer.json: model.vocab is missing");
  if (idByToken.size === 0) throw invalid("tokenizer.json: model.vocab is empty");
  return idByToken;
}

function checkMerges(model: JsonObject, idByToken: ReadonlyMap<string, number>): void {
  if (model["continuing_subword_prefix"]) {
    throw invalid('tokenizer.json: model.continuing_subword_prefix is not supported, null or "" is wanted');
  }
  const merges = model["merges"];
  if (!Array.isArray(merges)) throw invalid("tokenizer.json: model.merges must be a list");
  const listForm = Array.isArray(merges[0]);
  merges.forEach((merge, index) => {
    const pair = listForm ? merge : typeof merge === "string" ? merge.split(" ") : null;
    if (!Array.isArray(pair) || pair.length !== 2) {
      throw invalid(`tokenizer.json: model.merges[${index}] is not a pair of tokens`);
    }
    const [left, right] = pair;
    if (typeof left !== "string" || typeof right !== "string" || !idByToken.has(left + right)) {
      throw invalid(`tokenizer.json: model.merges[${index}] makes a token that is not in the vocabulary`);
    }
  });
}

function readAddedTokens(json: JsonObject): AddedToken[] {
  const list = json["added_tokens"] ?? [];
  if (!Array.isArray(list)) throw invalid("tokenizer.json: added_tokens must be a list");
  return list.map((entry, index) => {
    if (!isObject(entry) || typeof entry["content"] !== "string" || entry["content"] === "") {
      throw invalid(`tokenizer.json: added_tokens[${index}].content must be a non-empty string`);
    }
    const content = entry["content"];
    return { id: checkId(`added token ${quote(content)}`, entry["id"]), content, special: entry["special"] === true };
  });
}

function indexById(idByToken: ReadonlyMap<string, number>, added: readonly AddedToken[]): Map<number, string> {
  const tokenById = new Map<number, string>();
  for (const [token, id] of idByToken) {
    const other = tokenById.get(id);
    if (other !== undefined) {
      throw invalid(`tokenizer.json: id ${id} is claimed by both ${quote(other)} and ${quote(token)}`);
    }
    tokenById.set(id, token);
  }
  for (const token of added) tokenById.set(token.id, token.content);
  return tokenById;
}

/** The token that stands for what cannot be encoded, or null. */
function readUnkToken(model: JsonObject, tokenById: ReadonlyMap<number, string>): string | null {
  const named = model["unk_token"];
  if (typeof named === "string") return named;
  const id = model["unk_id"];
  return typeof id === "number" ? (tokenById.get(id) ?? null) : null;
}

/**
 * Checks a tokenizer.json.
 * @throws tokenizer_invalid naming the field, the value got and the value wanted
 */
export function parseTokenizerJson(content: string | Uint8Array): ParsedTokenizerJson {
  const json = parseJsonFile("tokenizer.json", content, maxTokenizerJsonBytes);
  const model = json["model"];
  if (!isObject(model)) throw invalid("tokenizer.json: model is missing");
  for (const part of ["normalizer", "pre_tokenizer", "post_processor", "decoder"]) {
    const value = json[part];
    if (value !== undefined && value !== null && !isObject(value)) {
      throw invalid(`tokenizer.json: ${part} must be an object or null`);
    }
    checkDepth(part, value);
  }
  const idByToken = readVocabulary(model);
  // Old files leave the type out; merges tell BPE.
  const modelType = typeof model["type"] === "string" ? model["type"] : model["merges"] ? "BPE" : "unknown";
  if (modelType === "BPE") checkMerges(model, idByToken);
  else if (modelType !== "Unigram" && modelType !== "WordPiece") {
    throw invalid(`tokenizer.json: model.type is ${quote(modelType)}, BPE, Unigram or WordPiece is wanted`);
  }
  const addedTokens = readAddedTokens(json);
  const tokenById = indexById(idByToken, addedTokens);
  return { json, modelType, tokenById, addedTokens, unkToken: readUnkToken(model, tokenById) };
}

/**
 * Token strings back to text: the `decoder` part of tokenizer.json, written here because the JavaScript
 * tokenizer library departs from the Rust one that defines the format: it drops U+FEFF, breaks on an empty
 * list, and decodes a run of byte tokens that is not UTF-8 in another way. In Rust a run of `<0xNN>` tokens is
 * text if all of it is UTF-8, and otherwise one U+FFFD for every token; a byte-level run is decoded by the
 * WHATWG rule. Source: huggingface/tokenizers, `decoders/*.rs`; held to golden values made by it.
 */
import type { JsonObject, JsonValue } from "../../ops/manifest.ts";
import { invalid, isObject } from "./tokenizerJson.ts";

/** One stage: a list of strings to a list of strings; their concatenation is the text. */
export type DecodeStep = (tokens: readonly string[]) => string[];

const encoder = new TextEncoder();
const strictUtf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
const lossyUtf8 = new TextDecoder("utf-8", { ignoreBOM: true });

/**
 * GPT-2's reversible map of bytes to visible characters: printable Latin-1 stands for itself, every other
 * byte for the next unused code point from 256 on.
 */
function makeByteByCharacter(): ReadonlyMap<string, number> {
  const map = new Map<string, number>();
  let next = 256;
  for (let byte = 0; byte < 256; byte++) {
    const printable = (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
    map.set(String.fromCodePoint(printable ? byte : next++), byte);
  }
  return map;
}

const byteByCharacter = makeByteByCharacter();

/** @returns the bytes a byte-level token stands for; a token with other characters is its own UTF-8. */
export function byteLevelBytes(token: string): Uint8Array {
  const bytes: number[] = [];
  for (const character of token) {
    const byte = byteByCharacter.get(character);
    if (byte === undefined) return encoder.encode(token);
    bytes.push(byte);
  }
  return Uint8Array.from(bytes);
}

/** @returns the value of a `<0xNN>` token, or null for any other token. */
export function fallbackByte(token: string): number | null {
  return /^<0x[0-9A-Fa-f]{2}>$/.test(token) ? Number.parseInt(token.slice(3, 5), 16) : null;
}

function decodeByteLevel(tokens: readonly string[]): string[] {
  const parts = tokens.map(byteLevelBytes);
  const bytes = new Uint8Array(parts.reduce((total, part) => total + part.length, 0));
  let offset = 0;
  for (const part of parts) {
    bytes.set(part, offset);
    offset += part.length;
  }
  return [lossyUtf8.decode(bytes)];
}

function decodeByteFallback(tokens: readonly string[]): string[] {
  const out: string[] = [];
  let run: number[] = [];
  const flush = (): void => {
    if (run.length === 0) return;
    try {
      out.push(strictUtf8.decode(Uint8Array.from(run)));
    } catch {
      for (let i = 0; i < run.length; i++) out.push("\uFFFD");
    }
    run = [];
  };
  for (const token of tokens) {
    const byte = fallbackByte(token);
    if (byte === null) {
      flush();
      out.push(token);
    } else run.push(byte);
  }
  flush();
  return out;
}

function stringField(step: JsonObject, field: string): string {
  const value = step[field];
  if (typeof value === "string") return value;
  throw invalid(`tokenizer.json: decoder.${field} must be a string`);
}

function countField(step: JsonObject, field: string): number {
  const value = step[field] ?? 0;
  if (typeof value === "number" && Number.isInteger(value) && value >= 0 && value <= 1024) return value;
  throw invalid(`tokenizer.json: decoder.${field} must be an integer from 0 to 1024`);
}

function makeReplace(step: JsonObject): DecodeStep {
  const pattern = step["pattern"];
  const content = stringField(step, "content");
  if (!isObject(pattern) || typeof pattern["String"] !== "string" || pattern["String"] === "") {
    throw invalid("tokenizer.json: decoder Replace needs pattern.String");
  }
  const text = pattern["String"];
  return (tokens) => tokens.map((token) => token.replaceAll(text, () => content));
}

/** Takes up to `start` copies of a character off the front of every piece and up to `stop` off its end. */
function makeStrip(step: JsonObject): DecodeStep {
  const content = stringField(step, "content");
  const start = countField(step, "start");
  const stop = countField(step, "stop");
  return (tokens) =>
    tokens.map((token) => {
      const characters = [...token];
      let from = 0;
      let to = characters.length;
      while (from < start && from < to && characters[from] === content) from++;
      while (characters.length - to < stop && to > from && characters[to - 1] === content) to--;
      return characters.slice(from, to).join("");
    });
}

function makeMetaspace(step: JsonObject): DecodeStep {
  const replacement = typeof step["replacement"] === "string" ? step["replacement"] : "\u2581";
  const scheme = step["prepend_scheme"] ?? (step["add_prefix_space"] === false ? "never" : "always");
  return (tokens) =>
    tokens.map((token, index) => {
      const own = index === 0 && scheme !== "never" && token.startsWith(replacement);
      return (own ? token.slice(replacement.length) : token).replaceAll(replacement, " ");
    });
}

function makeSteps(step: JsonObject): DecodeStep[] {
  switch (step["type"]) {
    case "Sequence": {
      const decoders = step["decoders"];
      if (!Array.isArray(decoders)) throw invalid("tokenizer.json: decoder.decoders must be a list");
      return decoders.flatMap((inner) => {
        if (!isObject(inner)) throw invalid("tokenizer.json: every decoder must be an object");
        return makeSteps(inner);
      });
    }
    case "ByteLevel":
      return [decodeByteLevel];
    case "ByteFallback":
      return [decodeByteFallback];
    case "Fuse":
      return [(tokens) => [tokens.join("")]];
    case "Replace":
      return [makeReplace(step)];
    case "Strip":
      return [makeStrip(step)];
    case "Metaspace":
      return [makeMetaspace(step)];
    default:
      throw invalid(
        `tokenizer.json: decoder ${JSON.stringify(step["type"] ?? null)} is not supported; ` +
          "Sequence, ByteLevel, ByteFallback, Fuse, Replace, Strip or Metaspace is wanted",
      );
  }
}

/**
 * Builds the decoder of a tokenizer.json; without one, tokens are joined by a space, as in Rust.
 * @throws tokenizer_invalid for a decoder that is malformed or not known here
 */
export function createDecoder(decoder: JsonValue | undefined): (tokens: readonly string[]) => string {
  if (!isObject(decoder)) return (tokens) => tokens.join(" ");
  const steps = makeSteps(decoder);
  return (tokens) => {
    let pieces: readonly string[] = tokens;
    for (const step of steps) pieces = step(pieces);
    return pieces.join("");
  };
}

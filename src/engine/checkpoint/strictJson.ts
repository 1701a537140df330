/**
 * A JSON reader for files written by strangers. Unlike `JSON.parse` it refuses duplicate keys (an escaped
 * spelling of a key is the same key), bounds nesting and the number of values, tells `2` from `2.0`, and
 * keeps integers exact. Objects become Maps, so that a key called `__proto__` is only a key. It is not a
 * general parser: no reviver, no comments, no streaming.
 * Source: RFC 8259; https://github.com/huggingface/safetensors (format: duplicate keys are disallowed).
 */
import type { ErrorCode } from "../../ops/errors.ts";
import { CodedError } from "../../ops/errors.ts";
import type { JsonObject, JsonValue } from "../../ops/manifest.ts";

/** A number written with a fraction or an exponent, or an integer that a double does not hold. */
export class InexactNumber {
  readonly text: string;
  constructor(text: string) {
    this.text = text;
  }
  get value(): number {
    return Number(this.text);
  }
}

/** What the reader returns: numbers are safe integers, everything else numeric is an `InexactNumber`. */
export type StrictValue = string | number | boolean | null | InexactNumber | StrictValue[] | StrictObject;
export type StrictObject = Map<string, StrictValue>;

export interface StrictJsonOptions {
  /** Named in every message: the file, and what part of it. */
  readonly what: string;
  readonly code: ErrorCode;
  /** Objects and arrays within one another, at most. */
  readonly maxDepth?: number;
  /** Values in all, at most: bounds memory independently of the text's length. */
  readonly maxValues?: number;
}

const defaultMaxDepth = 64;
const defaultMaxValues = 20_000_000;
const numberPattern = /-?(?:0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?/y;
const escapes: Readonly<Record<string, string>> = {
  '"': '"',
  "\\": "\\",
  "/": "/",
  b: "\b",
  f: "\f",
  n: "\n",
  r: "\r",
  t: "\t",
};

class Reader {
  readonly #text: string;
  readonly #options: StrictJsonOptions;
  readonly #maxDepth: number;
  #valuesLeft: number;
  #at = 0;

  constructor(text: string, options: StrictJsonOptions) {
    this.#text = text;
    this.#options = options;
    this.#maxDepth = options.maxDepth ?? defaultMaxDepth;
    this.#valuesLeft = options.maxValues ?? defaultMaxValues;
  }

  document(): StrictValue {
    const value = this.#value(0);
    this.#skipSpace();
    if (this.#at < this.#text.length) this.#fail("trailing characters after the JSON value");
    return value;
  }

  #fail(problem: string): never {
    throw new CodedError(this.#options.code, `${this.#options.what}: ${problem} (at character ${this.#at})`);
  }

  #skipSpace(): void {
    for (;;) {
      const code = this.#text.charCodeAt(this.#at);
      if (code !== 0x20 && code !== 0x0a && code !== 0x0d && code !== 0x09) return;
      this.#at += 1;
    }
  }

  #value(depth: number): StrictValue {
    this.#valuesLeft -= 1;
    if (this.#valuesLeft < 0) this.#fail("too many JSON values");
    this.#skipSpace();
    const char = this.#text[this.#at];
    if (char === "{") return this.#object(depth + 1);
    if (char === "[") return this.#array(depth + 1);
    if (char === '"') return this.#string();
    if (char === undefined) this.#fail("the JSON ends too early");
    if (char === "t") return this.#word("true", true);
    if (char === "f") return this.#word("false", false);
    if (char === "n") return this.#word("null", null);
    return this.#number();
  }

  #word<Value>(word: string, value: Value): Value {
    if (!this.#text.startsWith(word, this.#at)) this.#fail("not a JSON value");
    this.#at += word.length;
    return value;
  }

  #number(): number | InexactNumber {
    numberPattern.lastIndex = this.#at;
    const match = numberPattern.exec(this.#text);
    if (match === null) this.#fail("not a JSON value");
    this.#at += match[0].length;
    const next = this.#text.charCodeAt(this.#at);
    if (next >= 0x30 && next <= 0x39) this.#fail("a number with a leading zero");
    const value = Number(match[0]);
    const plain = match[1] === undefined && match[2] === undefined;
    return plain && Number.isSafeInteger(value) && !Object.is(value, -0) ? value : new InexactNumber(match[0]);
  }

  #string(): string {
    const start = this.#at + 1;
    let at = start;
    let plain = true;
    for (; ; at += 1) {
      const code = this.#text.charCodeAt(at);
      if (code === 0x22) break;
      if (Number.isNaN(code)) this.#fail("a string without its closing quote");
      if (code < 0x20) this.#fail("a control character inside a string");
      if (code === 0x5c) {
        plain = false;
        at += 1;
      }
    }
    const raw = this.#text.slice(start, at);
    const value = plain ? raw : this.#unescape(raw);
    this.#at = at + 1;
    return value;
  }

  #unescape(raw: string): string {
    const value = raw.replace(/\\(?:u([0-9a-fA-F]{4})|([\s\S]?))/g, (_all, hex: string | undefined, char: string) => {
      if (hex !== undefined) return String.fromCharCode(parseInt(hex, 16));
      return escapes[char] ?? this.#fail("an unknown escape in a string");
    });
    // A lone surrogate is no text: the official parser refuses it, and UTF-8 cannot hold it.
    if (!value.isWellFormed()) this.#fail("a lone surrogate in a string");
    return value;
  }

  #array(depth: number): StrictValue[] {
    if (depth > this.#maxDepth) this.#fail(`nested deeper than ${this.#maxDepth}`);
    const values: StrictValue[] = [];
    this.#at += 1;
    this.#skipSpace();
    if (this.#take("]")) return values;
    for (;;) {
      values.push(this.#value(depth));
      this.#skipSpace();
      if (this.#take("]")) return values;
      if (!this.#take(",")) this.#fail("expected , or ] in an array");
    }
  }

  #object(depth: number): StrictObject {
    if (depth > this.#maxDepth) this.#fail(`nested deeper than ${this.#maxDepth}`);
    const members: StrictObject = new Map();
    this.#at += 1;
    this.#skipSpace();
    if (this.#take("}")) return members;
    for (;;) {
      this.#skipSpace();
      if (this.#text[this.#at] !== '"') this.#fail("an object key must be a string");
      const key = this.#string();
      if (members.has(key)) this.#fail(`duplicate key ${quoted(key)}`);
      this.#skipSpace();
      if (!this.#take(":")) this.#fail("expected : after an object key");
      members.set(key, this.#value(depth));
      this.#skipSpace();
      if (this.#take("}")) return members;
      if (!this.#take(",")) this.#fail("expected , or } in an object");
    }
  }

  #take(char: string): boolean {
    if (this.#text[this.#at] !== char) return false;
    this.#at += 1;
    return true;
  }
}

/** @returns a name made safe to show in a message: JSON-quoted and at most about 200 characters. */
export function quoted(name: string): string {
  return JSON.stringify(name.length <= 200 ? name : `${name.slice(0, 200)}...`);
}

/**
 * Reads one JSON value from UTF-8 bytes.
 * @throws the given code, naming `what`, for anything that is not exactly one JSON value in UTF-8
 */
export function parseStrictJson(bytes: Uint8Array, options: StrictJsonOptions): StrictValue {
  let text: string;
  try {
    // ignoreBOM keeps a byte order mark in the text, where the parser refuses it.
    text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch (cause) {
    throw new CodedError(options.code, `${options.what}: not UTF-8`, { cause });
  }
  return new Reader(text, options).document();
}

/**
 * @returns a strict object as plain JSON. Keys that would reach an object's prototype are refused, because
 *   plain objects are spread and merged later.
 */
export function toJsonObject(value: StrictValue, options: StrictJsonOptions): JsonObject {
  if (!(value instanceof Map)) throw new CodedError(options.code, `${options.what}: not a JSON object`);
  return toPlain(value, options) as JsonObject;
}

function toPlain(value: StrictValue, options: StrictJsonOptions): JsonValue {
  if (value instanceof InexactNumber) {
    if (Number.isFinite(value.value)) return value.value;
    throw new CodedError(options.code, `${options.what}: the number ${value.text.slice(0, 40)} is out of range`);
  }
  if (Array.isArray(value)) return value.map((item) => toPlain(item, options));
  if (!(value instanceof Map)) return value;
  const plain: JsonObject = {};
  for (const [key, member] of value) {
    if (key === "__proto__") throw new CodedError(options.code, `${options.what}: a key named __proto__`);
    plain[key] = toPlain(member, options);
  }
  return plain;
}

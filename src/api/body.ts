/**
 * Reads a JSON body without trusting it: counted while it arrives, strict UTF-8, and after parsing no key
 * `__proto__`, no NUL (the database cannot keep it), no half of a surrogate pair, no number too large for a
 * double, and no nesting that would exhaust a stack later. What it says is judged by validate.ts.
 */
import { createHash } from "node:crypto";
import { CodedError } from "../ops/errors.ts";
import { invalidRequest } from "./validate.ts";

/** Deepest nesting of objects and lists. */
export const maxDepth = 64;

export interface JsonBody {
  /** Undefined where no body was sent. */
  readonly value: unknown;
  readonly sizeBytes: number;
  /** SHA-256 of the bytes. */
  readonly digest: string;
}

export interface BodyLimits {
  readonly maxBytes: number;
  /** Time in which the whole body must have arrived, ms. */
  readonly timeoutMs: number;
}

/**
 * @param required whether the operation has a JSON body; if not, only nothing or `{}` is taken
 * @throws payload_too_large, unsupported_media_type, invalid_request
 */
export async function readJson(request: Request, limits: BodyLimits, required: boolean): Promise<JsonBody> {
  const bytes = await readBytes(request, limits);
  const digest = createHash("sha256").update(bytes).digest("hex");
  if (bytes.length === 0 && !required) return { value: undefined, sizeBytes: 0, digest };
  if (bytes.length === 0) throw invalidRequest([{ pointer: "", detail: "is missing; want a JSON object" }]);
  const type = request.headers.get("content-type") ?? "";
  if (!/^application\/json\s*(;\s*charset="?utf-8"?\s*)?$/i.test(type)) {
    const message = `Content-Type: got ${JSON.stringify(type.slice(0, 100))}, want "application/json" in UTF-8`;
    throw new CodedError("unsupported_media_type", message);
  }
  const encoding = request.headers.get("content-encoding") ?? "identity";
  if (!/^identity$/i.test(encoding)) {
    const message = `Content-Encoding: got ${JSON.stringify(encoding.slice(0, 100))}, want none`;
    throw new CodedError("unsupported_media_type", message);
  }
  const value = parseJson(bytes);
  checkValue(value, "", 0);
  if (!required && (typeof value !== "object" || value === null || Object.keys(value).length > 0)) {
    throw invalidRequest([{ pointer: "", detail: "this operation takes no body" }]);
  }
  return { value, sizeBytes: bytes.length, digest };
}

async function readBytes(request: Request, { maxBytes, timeoutMs }: BodyLimits): Promise<Buffer> {
  const most = `the body has more than ${maxBytes} bytes, the most that is taken`;
  const tooLarge = new CodedError("payload_too_large", most);
  if (Number(request.headers.get("content-length") ?? 0) > maxBytes) throw tooLarge;
  if (!request.body) return Buffer.alloc(0);
  const reader = request.body.getReader();
  const late = Promise.withResolvers<never>();
  const message = `the body did not arrive within ${timeoutMs} ms`;
  const timer = setTimeout(() => late.reject(new CodedError("invalid_request", message)), timeoutMs);
  const chunks: Uint8Array[] = [];
  let size = 0;
  try {
    for (;;) {
      const { done, value } = await Promise.race([reader.read(), late.promise]);
      if (done) return Buffer.concat(chunks, size);
      size += value.length;
      if (size > maxBytes) throw tooLarge;
      chunks.push(value);
    }
  } finally {
    clearTimeout(timer);
    late.promise.catch(() => undefined);
    reader.cancel().catch(() => undefined);
  }
}

function parseJson(bytes: Buffer): unknown {
  try {
    return JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
  } catch (error) {
    const reason = error instanceof SyntaxError ? error.message.slice(0, 200) : "not UTF-8";
    throw invalidRequest([{ pointer: "", detail: `is not JSON: ${reason.toWellFormed()}` }]);
  }
}

function checkValue(value: unknown, pointer: string, depth: number): void {
  if (typeof value === "string") return checkText(value, pointer);
  if (typeof value === "number" && !Number.isFinite(value)) fail(pointer, "is a number too large for a double");
  if (typeof value !== "object" || value === null) return;
  if (depth >= maxDepth) fail(pointer, `is nested deeper than ${maxDepth} levels`);
  if (Array.isArray(value)) {
    // without callbacks: a body may hold millions of entries
    for (let i = 0; i < value.length; i++) checkValue(value[i], `${pointer}/${i}`, depth + 1);
    return;
  }
  for (const key of Object.keys(value)) {
    checkText(key, pointer);
    if (key === "__proto__") fail(pointer, 'has the key "__proto__", which is not taken anywhere');
    const below = `${pointer}/${key.replaceAll("~", "~0").replaceAll("/", "~1")}`;
    checkValue((value as Record<string, unknown>)[key], below, depth + 1);
  }
}

function checkText(text: string, pointer: string): void {
  if (text.includes("\0")) fail(pointer, "has the character U+0000, which is not taken anywhere");
  if (!text.isWellFormed()) fail(pointer, "has half of a surrogate pair: it is not Unicode text");
}

function fail(pointer: string, detail: string): never {
  throw invalidRequest([{ pointer, detail }]);
}

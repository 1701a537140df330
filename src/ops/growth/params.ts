/**
 * Reads the fields of a growth request: each refusal carries a JSON pointer to the field and says what was got and
 * what was wanted. `invalid_request` means the field is malformed, `unprocessable` that it is well formed but
 * impossible for this source. Unknown fields are refused, so that a misspelt one is never ignored.
 */
import { CodedError, type ErrorCode } from "../errors.ts";
import { shown } from "../architectures/configFields.ts";

/** An object of a request whose fields have not been looked at yet, and where in the body it stands. */
export interface UnreadParams {
  readonly value: Readonly<Record<string, unknown>>;
  readonly pointer: string;
}

/** @returns the error naming one field. */
export function fieldError(
  code: Extract<ErrorCode, "invalid_request" | "unprocessable">,
  pointer: string,
  detail: string,
): CodedError {
  return new CodedError(code, `${pointer}: ${detail}`, { fields: [{ pointer, detail }] });
}

/** @returns an error for a malformed field. */
export function malformed(pointer: string, value: unknown, wanted: string): CodedError {
  const got = value === undefined ? "missing" : shown(value);
  return fieldError("invalid_request", pointer, `is ${got}; wanted ${wanted}`);
}

/** @returns an error for a field that asks the impossible. */
export function impossible(pointer: string, detail: string): CodedError {
  return fieldError("unprocessable", pointer, detail);
}

/** @returns `value` if it is an object with none but the known fields. @throws invalid_request */
export function readParams(value: unknown, pointer: string, known: readonly string[]): UnreadParams {
  if (value === undefined) return { value: {}, pointer };
  if (typeof value !== "object" || value === null || Array.isArray(value)) throw malformed(pointer, value, "an object");
  for (const name of Object.keys(value)) {
    if (!known.includes(name)) {
      const detail = `is not a field here; known are ${known.length > 0 ? known.join(", ") : "none"}`;
      throw fieldError("invalid_request", `${pointer}/${escapePointer(name)}`, detail);
    }
  }
  return { value: value as Readonly<Record<string, unknown>>, pointer };
}

/** @returns the field's value, undefined where the object itself has none. */
export function given(params: UnreadParams, name: string): unknown {
  return Object.hasOwn(params.value, name) ? params.value[name] : undefined;
}

/** @returns an integer of the range, or undefined where not given. @throws invalid_request */
export function optionalInteger(params: UnreadParams, name: string, min: number, max: number): number | undefined {
  const value = given(params, name);
  if (value === undefined) return undefined;
  return checkedInteger(value, `${params.pointer}/${name}`, min, max);
}

/** @throws invalid_request */
export function checkedInteger(value: unknown, pointer: string, min: number, max: number): number {
  if (typeof value !== "number" || !Number.isInteger(value) || value < min || value > max) {
    throw malformed(pointer, value, `an integer from ${min} to ${max}`);
  }
  return value;
}

/** @returns a number of the range, or `fallback` where not given. @throws invalid_request */
export function optionalNumber(params: UnreadParams, name: string, min: number, max: number, fallback: number): number {
  const value = given(params, name) ?? fallback;
  if (typeof value !== "number" || !(value >= min && value <= max)) {
    throw malformed(`${params.pointer}/${name}`, value, `a number from ${min} to ${max}`);
  }
  return value;
}

/** @returns one of the words, or `fallback` where not given. @throws invalid_request */
export function optionalWord<Word extends string>(
  params: UnreadParams,
  name: string,
  words: readonly Word[],
  fallback: Word,
): Word {
  const value = given(params, name) ?? fallback;
  const word = words.find((candidate) => candidate === value);
  if (word === undefined) throw malformed(`${params.pointer}/${name}`, value, `one of ${words.join(", ")}`);
  return word;
}

/** @returns a list of integers, each of the range; the pointer of a wrong entry is its own. @throws invalid_request */
export function integerList(value: unknown, pointer: string, maxLength: number, min: number, max: number): number[] {
  if (!Array.isArray(value)) throw malformed(pointer, value, "a list of integers");
  if (value.length < 1 || value.length > maxLength) {
    throw fieldError("unprocessable", pointer, `has ${value.length} entries; wanted 1 to ${maxLength}`);
  }
  return value.map((entry: unknown, index) => {
    if (typeof entry !== "number" || !Number.isInteger(entry)) {
      throw malformed(`${pointer}/${index}`, entry, `an integer from ${min} to ${max}`);
    }
    if (entry < min || entry > max) {
      throw impossible(`${pointer}/${index}`, `is ${entry}; wanted an integer from ${min} to ${max}`);
    }
    return entry;
  });
}

function escapePointer(name: string): string {
  return name.slice(0, 80).replaceAll("~", "~0").replaceAll("/", "~1");
}

/**
 * Reads single fields of a hostile JSON object (a config.json, already parsed by JSON.parse): own properties only,
 * each with its type and its limits, each refusal naming the field, the value got and the value wanted. Knows
 * nothing of any architecture. A field that is absent or null counts as "not given".
 */
import { CodedError } from "../errors.ts";

/** A JSON object whose fields have not been looked at yet. */
export type UnreadJson = Readonly<Record<string, unknown>>;

export interface NumberRange {
  readonly min: number;
  readonly max: number;
}

/** @returns `json` if it is a JSON object. @throws checkpoint_corrupt */
export function asObject(json: unknown, what: string): UnreadJson {
  if (typeof json !== "object" || json === null || Array.isArray(json)) {
    throw new CodedError("checkpoint_corrupt", `${what} is ${shown(json)}, not a JSON object`);
  }
  return json as UnreadJson;
}

/** @returns the field, or undefined where the object itself has none or holds null. */
export function field(json: UnreadJson, name: string): unknown {
  if (!Object.hasOwn(json, name)) return undefined;
  return json[name] ?? undefined;
}

/** @returns an integer within the range; `fallback` where the field is not given. @throws checkpoint_corrupt */
export function integerField(json: UnreadJson, name: string, range: NumberRange, fallback?: number): number {
  const value = field(json, name) ?? fallback;
  if (typeof value === "number" && Number.isInteger(value) && value >= range.min && value <= range.max) return value;
  throw corrupt(name, value, `an integer from ${range.min} to ${range.max}`);
}

/** @returns a finite number within the range; `fallback` where not given. @throws checkpoint_corrupt */
export function numberField(json: UnreadJson, name: string, range: NumberRange, fallback?: number): number {
  const value = field(json, name) ?? fallback;
  if (typeof value === "number" && Number.isFinite(value) && value >= range.min && value <= range.max) return value;
  throw corrupt(name, value, `a number from ${range.min} to ${range.max}`);
}

/** @returns a boolean; `fallback` where not given. @throws checkpoint_corrupt */
export function booleanField(json: UnreadJson, name: string, fallback: boolean): boolean {
  const value = field(json, name) ?? fallback;
  if (typeof value === "boolean") return value;
  throw corrupt(name, value, "true or false");
}

/** @returns the error for a field whose value no honest file would hold. */
export function corrupt(name: string, value: unknown, wanted: string): CodedError {
  const got = value === undefined ? "missing" : shown(value);
  return new CodedError("checkpoint_corrupt", `config ${name} is ${got}; wanted ${wanted}`, {
    details: { field: name },
  });
}

/** @returns the error for a field that is honest but asks for something not computed here. */
export function unsupported(name: string, value: unknown, wanted: string): CodedError {
  return new CodedError("checkpoint_unsupported", `config ${name} is ${shown(value)}; supported: ${wanted}`, {
    details: { field: name },
  });
}

const maxShownLength = 80;

/** @returns a value in a form short enough for a message. */
export function shown(value: unknown): string {
  if (typeof value === "object" && value !== null) return Array.isArray(value) ? "a list" : "an object";
  const text = typeof value === "string" ? JSON.stringify(value) : String(value);
  return text.length > maxShownLength ? `${text.slice(0, maxShownLength)}...` : text;
}

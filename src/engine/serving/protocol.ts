/**
 * What the pool and a model process say to each other over Node's IPC channel. Each message is checked when it
 * arrives: a process that was killed or is of another version must not be able to confuse the server. Errors
 * cross as records (code and public message); token ids and log-probabilities are the only bulk.
 */
import { cacheDtypes } from "../../ops/cacheDtype.ts";
import type { CacheDtype } from "../../ops/cacheDtype.ts";
import { errorCodes } from "../../ops/errors.ts";
import type { ErrorRecord } from "../../ops/errors.ts";
import type { ResolvedCheckpoint } from "../../ops/manifest.ts";
import type { StepStats } from "../infer/batcher.ts";
import type { GenerateEvent, GenerateRequest, ServedModel } from "../infer/servedModel.ts";

/** Pool to process. `load` comes once, first. */
export type ToChild =
  | LoadMessage
  | { readonly type: "generate"; readonly id: number; readonly request: GenerateRequest }
  | { readonly type: "cancel"; readonly id: number };

export interface LoadMessage {
  readonly type: "load";
  /** Those that may be used; null for all. */
  readonly backends: readonly string[] | null;
  readonly checkpoint: ResolvedCheckpoint;
  /** Positions that all caches may hold together, those kept between requests included; 0 keeps nothing. */
  readonly cachePositions: number;
  readonly cacheDtype: CacheDtype;
}

export interface LoadedMessage extends Pick<ServedModel, "maxLength" | "vocabSize" | "memoryBytes" | "sharesPages"> {
  readonly type: "loaded";
}

/**
 * Process to pool. Every `generate` is answered by events up to `end`, or by one `error`. What became known at once, of
 * all requests, is one message: there may be thousands of tokens a second.
 */
export type FromChild =
  | LoadedMessage
  /** The checkpoint could not be loaded; the process ends after it. */
  | { readonly type: "failed"; readonly error: ErrorRecord }
  | { readonly type: "events"; readonly events: readonly IdentifiedEvent[]; readonly steps: readonly StepStats[] }
  | { readonly type: "error"; readonly id: number; readonly error: ErrorRecord }
  /** Sent every `healthIntervalMs`, between steps: silence means a step that does not end. */
  | { readonly type: "health"; readonly rssBytes: number };

export interface IdentifiedEvent {
  readonly id: number;
  readonly event: GenerateEvent;
}

export const healthIntervalMs = 1000;

type Fields = Record<string, unknown>;

/** @returns the message, or null when it is not one. */
export function parseToChild(value: unknown): ToChild | null {
  if (!isObject(value)) return null;
  switch (value["type"]) {
    case "load":
      return isLoad(value) ? (value as ToChild) : null;
    case "generate":
      return isId(value["id"]) && isGenerateRequest(value["request"]) ? (value as ToChild) : null;
    case "cancel":
      return isId(value["id"]) ? (value as ToChild) : null;
    default:
      return null;
  }
}

/** @returns the message, or null when it is not one. */
export function parseFromChild(value: unknown): FromChild | null {
  if (!isObject(value)) return null;
  switch (value["type"]) {
    case "loaded":
      return isLoaded(value) ? (value as FromChild) : null;
    case "failed":
      return isErrorRecord(value["error"]) ? (value as FromChild) : null;
    case "events":
      return isListOf(value["events"], isIdentified) && isListOf(value["steps"], isStep) ? (value as FromChild) : null;
    case "error":
      return isId(value["id"]) && isErrorRecord(value["error"]) ? (value as FromChild) : null;
    case "health":
      return isCount(value["rssBytes"]) ? (value as FromChild) : null;
    default:
      return null;
  }
}

function isLoad(value: Fields): boolean {
  const caches = isId(value["cachePositions"]) && (cacheDtypes as readonly unknown[]).includes(value["cacheDtype"]);
  return caches && isNames(value["backends"]) && isObject(value["checkpoint"]);
}

function isLoaded(value: Fields): boolean {
  const counts = ["maxLength", "vocabSize", "memoryBytes"];
  return counts.every((name) => isCount(value[name])) && typeof value["sharesPages"] === "boolean";
}

function isGenerateRequest(value: unknown): value is GenerateRequest {
  if (!isObject(value)) return false;
  const numbers = ["maxTokens", "temperature", "topP", "seed"];
  const lists = ["promptIds", "stopIds"];
  return (
    numbers.every((name) => typeof value[name] === "number") &&
    lists.every((name) => Array.isArray(value[name])) &&
    (value["logprobs"] === null || typeof value["logprobs"] === "number") &&
    typeof value["echo"] === "boolean" &&
    (value["gather"] === undefined || typeof value["gather"] === "boolean")
  );
}

function isGenerateEvent(value: unknown): value is GenerateEvent {
  if (!isObject(value)) return false;
  if (value["type"] === "token") return isId(value["id"]);
  if (value["type"] === "cached") return isId(value["tokens"]);
  if (value["type"] === "prompt") return Array.isArray(value["logprobs"]);
  return value["type"] === "end" && (value["reason"] === "stop" || value["reason"] === "length");
}

function isIdentified(value: unknown): boolean {
  return isObject(value) && isId(value["id"]) && isGenerateEvent(value["event"]);
}

function isStep(value: unknown): boolean {
  return isObject(value) && ["sequences", "tokens", "seconds"].every((name) => isCount(value[name]));
}

function isListOf(value: unknown, isItem: (item: unknown) => boolean): boolean {
  return Array.isArray(value) && value.every(isItem);
}

function isErrorRecord(value: unknown): value is ErrorRecord {
  if (!isObject(value) || typeof value["message"] !== "string") return false;
  return (errorCodes as readonly unknown[]).includes(value["code"]);
}

function isObject(value: unknown): value is Fields {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function isNames(value: unknown): boolean {
  return value === null || (Array.isArray(value) && value.every((name) => typeof name === "string"));
}

function isId(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0;
}

function isCount(value: unknown): value is number {
  return typeof value === "number" && Number.isFinite(value) && value >= 0;
}

/**
 * The shapes in which clients of other APIs look for an error: OpenAI's in a member `error` of the body, or of a
 * stream's chunk, those of the Open Inference Protocol in a text of that name. Their routes put it beside the members
 * of RFC 9457, so that both kinds of client read what went wrong.
 */
import type { CodedError } from "../../ops/errors.ts";

export interface OpenAiError {
  readonly message: string;
  readonly type: string;
  /** The field that is wrong, in dots: `prompt.0`. */
  readonly param: string | null;
  readonly code: string;
}

/** `problem` is RFC 9457 alone. */
export type ErrorDialect = "problem" | "openai" | "open_inference";

/** By id, as in openapi.yaml. */
const openAiOperations: ReadonlySet<string> = new Set([
  "listModels",
  "getModel",
  "createCompletion",
  "createChatCompletion",
  "tokenize",
  "detokenize",
  "getTokenizerInfo",
]);

const openInferenceOperations: ReadonlySet<string> = new Set([
  "getProtocolServer",
  "getProtocolLive",
  "getProtocolReady",
  "getProtocolModel",
  "getProtocolModelReady",
]);

/** @param ids operations of one path */
export function errorDialectOf(ids: readonly string[]): ErrorDialect {
  if (ids.some((id) => openAiOperations.has(id))) return "openai";
  return ids.some((id) => openInferenceOperations.has(id)) ? "open_inference" : "problem";
}

/** @returns what a problem carries beside its own members. */
export function errorMember(error: CodedError, dialect: ErrorDialect): { error?: OpenAiError | string } {
  if (dialect === "problem") return {};
  return { error: dialect === "openai" ? openAiError(error) : error.message };
}

/** @returns the member `error` as OpenAI's clients read it. */
export function openAiError(error: CodedError): OpenAiError {
  const pointer = error.fields[0]?.pointer ?? "";
  return {
    message: error.message,
    type: error.code,
    param: pointer === "" ? null : pointer.slice(1).replaceAll("/", "."),
    code: error.code,
  };
}

/**
 * The shape in which OpenAI's clients look for an error: a member `error` of the body, or of a stream's chunk. The
 * inference routes put it beside the members of RFC 9457, so that both kinds of client read what went wrong.
 */
import type { CodedError } from "../../ops/errors.ts";

export interface OpenAiError {
  readonly message: string;
  readonly type: string;
  /** The field that is wrong, in dots: `prompt.0`. */
  readonly param: string | null;
  readonly code: string;
}

/** Operations whose problems carry `error`; by id, as in openapi.yaml. */
export const openAiOperations: ReadonlySet<string> = new Set([
  "listModels",
  "getModel",
  "createCompletion",
  "createChatCompletion",
  "tokenize",
  "detokenize",
  "getTokenizerInfo",
]);

/** @returns the member `error`. */
export function openAiError(error: CodedError): OpenAiError {
  const pointer = error.fields[0]?.pointer ?? "";
  return {
    message: error.message,
    type: error.code,
    param: pointer === "" ? null : pointer.slice(1).replaceAll("/", "."),
    code: error.code,
  };
}

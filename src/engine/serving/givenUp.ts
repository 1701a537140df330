/** Why a request was given up, for whoever still listens: the reason of its signal, where that is an error of ours. */
import { CodedError } from "../../ops/errors.ts";

/** @returns what its signal was aborted with, such as `unavailable` of a server that stops; otherwise `cancelled` */
export function givenUp({ reason }: AbortSignal): CodedError {
  return reason instanceof CodedError ? reason : new CodedError("cancelled", "the request was cancelled");
}

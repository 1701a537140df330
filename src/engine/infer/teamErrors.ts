/**
 * The way of an error from a helper thread of a served model to the first thread, which computes in a loop and turns to
 * no event before the end of a step: a channel that it can look into, for each helper. What is no `CodedError` arrives
 * as an `Error` with the text of the one that was thrown, for the log.
 */
import { receiveMessageOnPort } from "node:worker_threads";
import type { MessagePort } from "node:worker_threads";
import { CodedError, fromErrorRecord, toErrorRecord } from "../../ops/errors.ts";
import type { ErrorRecord } from "../../ops/errors.ts";

type Told = { readonly record: ErrorRecord } | { readonly text: string };

/** @returns sends what helper `thread` threw; it lies at the other end when the call returns. */
export function tellBy(port: MessagePort, thread: number): (error: unknown) => void {
  return (error) => {
    const text = error instanceof Error ? (error.stack ?? error.message) : String(error);
    const told: Told =
      error instanceof CodedError ? { record: toErrorRecord(error) } : { text: `helper thread ${thread}: ${text}` };
    port.postMessage(told);
  };
}

/** @returns takes all that has come, and gives the first of it, or null. */
export function toldBy(ports: readonly MessagePort[]): () => Error | null {
  return () => {
    let first: Error | null = null;
    for (const port of ports) {
      for (let got = receiveMessageOnPort(port); got; got = receiveMessageOnPort(port)) {
        const told = got.message as Told;
        first ??= "record" in told ? fromErrorRecord(told.record) : new Error(told.text);
      }
    }
    return first;
  };
}

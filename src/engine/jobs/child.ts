/**
 * ENTRY of a compute process. Does one piece of work and ends. It holds at most a few events that nobody has
 * taken, stops cleanly when asked, and ends at once when its parent is gone. Which code it loads depends on
 * the work: an import never loads tfjs.
 */
import { toErrorRecord, CodedError } from "../../ops/errors.ts";
import type { WorkEvent } from "../../ops/events.ts";
import { aliveEveryMs, maxEventsAhead, type FromChild, type ToChild } from "./computeProtocol.ts";
import { readComputeOptions } from "../settings.ts";
import { performWork } from "./performWork.ts";

function send(message: FromChild): Promise<void> {
  return new Promise((resolve, reject) => {
    process.send?.(message, undefined, undefined, (error) => (error ? reject(error) : resolve()));
  });
}

function main(): void {
  const stop = new AbortController();
  let ahead = 0;
  let onTaken: (() => void) | null = null;

  const emit = async (event: WorkEvent): Promise<void> => {
    while (ahead >= maxEventsAhead) await new Promise<void>((resolve) => (onTaken = resolve));
    ahead++;
    await send({ type: "event", event });
  };

  process.on("disconnect", () => process.exit(1)); // the server is gone: nobody wants this work any more
  process.on("message", (message: ToChild) => {
    if (message.type === "stop") stop.abort();
    if (message.type === "taken") {
      ahead--;
      onTaken?.();
    }
    if (message.type === "start") void run(message, stop.signal, emit);
  });
  // terminals send these to the whole process group; the server decides when this process stops
  process.on("SIGINT", () => undefined);
  process.on("SIGTERM", () => undefined);
}

async function run(
  { request, threads }: ToChild & { type: "start" },
  signal: AbortSignal,
  emit: (event: WorkEvent) => Promise<void>,
): Promise<void> {
  const alive = setInterval(() => void send({ type: "alive", rssBytes: process.memoryUsage.rss() }), aliveEveryMs);
  try {
    const { variant, webgpu } = readComputeOptions();
    const options = { threads, kernels: variant, webgpu, signal };
    for await (const event of performWork(request, options)) await emit(event);
    await send({ type: "done" });
  } catch (error) {
    const trace = error instanceof Error ? (error.stack ?? error.message) : String(error);
    await send({ type: "failed", error: toErrorRecord(asMemoryError(error)), trace });
  } finally {
    clearInterval(alive);
  }
  process.exit(0);
}

function asMemoryError(error: unknown): unknown {
  if (
    !(error instanceof RangeError) ||
    !/allocation failed|Invalid typed array length|out of memory/i.test(error.message)
  ) {
    return error;
  }
  return new CodedError("out_of_memory", `the compute process ran out of memory: ${error.message}`, { cause: error });
}

main();

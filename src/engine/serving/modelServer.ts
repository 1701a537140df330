/**
 * The inside of a model process: loads one checkpoint, then generates for as many requests as it is sent, together
 * (`infer/batcher.ts`). What a step made for all of them leaves as one message. It holds nothing that the pool could
 * not lose: when the channel closes, the process ends, so it never outlives the server that started it.
 */
import { CodedError, toErrorRecord } from "../../ops/errors.ts";
import type { ErrorRecord } from "../../ops/errors.ts";
import type { ResolvedCheckpoint } from "../../ops/manifest.ts";
import type { ServedModel } from "../infer/servedModel.ts";
import { healthIntervalMs, parseToChild } from "./protocol.ts";
import type { FromChild, IdentifiedEvent, ToChild } from "./protocol.ts";

export interface ModelServerOptions {
  load(
    checkpoint: ResolvedCheckpoint,
    backends: readonly string[] | null,
    cachePositions: number,
  ): Promise<ServedModel>;
  send(message: FromChild): void;
  rssBytes(): number;
  /** Told of errors that are no `CodedError`: mistakes of ours, whose text callers do not see. */
  onUnexpected(error: unknown): void;
  /** Ends the process. */
  exit(code: number): void;
}

export interface ModelServer {
  /** Takes one raw message of the channel. */
  receive(message: unknown): void;
  /** To be called when the channel has closed. */
  disconnected(): void;
}

/** @returns the server of one process; nothing happens before its first message. */
export function createModelServer(options: ModelServerOptions): ModelServer {
  const running = new Map<number, AbortController>();
  let model: ServedModel | null = null;
  let loading = false;
  const outbox = createOutbox((events) => {
    options.send({ type: "events", events, steps: model?.takeSteps?.() ?? [] });
  });
  const health = setInterval(() => options.send({ type: "health", rssBytes: options.rssBytes() }), healthIntervalMs);
  health.unref();

  function record(error: unknown): ErrorRecord {
    const shown = asMemoryError(error);
    if (!(shown instanceof CodedError)) options.onUnexpected(error);
    return toErrorRecord(shown);
  }

  async function load(message: ToChild & { type: "load" }): Promise<void> {
    if (loading) throw new CodedError("internal", "the process was asked to load a second model");
    loading = true;
    try {
      model = await options.load(message.checkpoint, message.backends, message.cachePositions);
    } catch (error) {
      options.send({ type: "failed", error: record(error) });
      return;
    }
    const { maxLength, vocabSize, memoryBytes, sharesPages } = model;
    options.send({ type: "loaded", maxLength, vocabSize, memoryBytes, sharesPages });
  }

  async function generate(message: ToChild & { type: "generate" }): Promise<void> {
    const { id, request } = message;
    const controller = new AbortController();
    running.set(id, controller);
    try {
      if (model === null) throw new CodedError("internal", "the process was asked to generate before it had a model");
      const add = request.gather ? gathering(outbox.add) : outbox.add;
      for await (const event of model.generate(request, controller.signal)) {
        if (controller.signal.aborted) break;
        add({ id, event });
      }
    } catch (error) {
      outbox.flush();
      options.send({ type: "error", id, error: record(error) });
    } finally {
      running.delete(id);
    }
  }

  return {
    receive(raw) {
      const message = parseToChild(raw);
      if (message === null) return options.exit(2);
      if (message.type === "load") void load(message).catch(() => options.exit(3));
      else if (message.type === "generate") void generate(message);
      else running.get(message.id)?.abort();
    },
    disconnected() {
      clearInterval(health);
      for (const controller of running.values()) controller.abort();
      model?.close();
      options.exit(0);
    },
  };
}

/** What V8 and WebAssembly throw when memory is short, as the error a caller may see. */
function asMemoryError(error: unknown): unknown {
  if (!(error instanceof RangeError) || !/allocation failed|typed array length|out of memory/i.test(error.message)) {
    return error;
  }
  return new CodedError("out_of_memory", "the model process ran out of memory", { cause: error });
}

/** Tokens that nobody reads as they come are told of after so long, ms. */
const gatherMs = 100;

/** @returns passes on the first token at once, then what has come since, now and then and at the end. */
function gathering(add: (event: IdentifiedEvent) => void): (event: IdentifiedEvent) => void {
  let held: IdentifiedEvent[] = [];
  let toldAt = -Infinity;
  return (event) => {
    held.push(event);
    if (event.event.type === "token") {
      const now = performance.now();
      if (now - toldAt < gatherMs) return;
      toldAt = now;
    }
    for (const one of held) add(one);
    held = [];
  };
}

/** Gathers events until the end of this turn of the event loop, by when all requests of a step have made theirs. */
function createOutbox(send: (events: readonly IdentifiedEvent[]) => void) {
  let waiting: IdentifiedEvent[] = [];
  const flush = (): void => {
    const events = waiting;
    waiting = [];
    if (events.length > 0) send(events);
  };
  return {
    add(event: IdentifiedEvent): void {
      if (waiting.length === 0) setImmediate(flush);
      waiting.push(event);
    },
    flush,
  };
}

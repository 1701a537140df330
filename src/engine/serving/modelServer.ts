/**
 * The inside of a model process: loads one checkpoint, then generates for as many requests as it is sent, together
 * (`infer/batcher.ts`). What steps made for all of them leaves as one message, every 10 ms at most but for what
 * somebody waits for: the first token of an answer, and its end. It holds nothing that the pool could
 * not lose: when the channel closes, the process ends, so it never outlives the server that started it.
 */
import { CodedError, toErrorRecord } from "../../ops/errors.ts";
import type { ErrorRecord } from "../../ops/errors.ts";
import type { ResolvedCheckpoint } from "../../ops/manifest.ts";
import type { CacheOptions } from "../infer/loadServedModel.ts";
import type { ServedModel } from "../infer/servedModel.ts";
import { healthIntervalMs, parseToChild } from "./protocol.ts";
import type { FromChild, IdentifiedEvent, ToChild } from "./protocol.ts";

export interface ModelServerOptions {
  load(checkpoint: ResolvedCheckpoint, backends: readonly string[] | null, caches: CacheOptions): Promise<ServedModel>;
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
      const { checkpoint, backends, cachePositions, cacheDtype } = message;
      model = await options.load(checkpoint, backends, { cachePositions, cacheDtype });
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
      let hasToken = false;
      for await (const event of model.generate(request, controller.signal)) {
        if (controller.signal.aborted) break;
        const isToken = event.type === "token";
        add({ id, event }, !isToken || !hasToken);
        hasToken ||= isToken;
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

/** Passes an event on; `isUrgent`: somebody waits for it. */
type Add = (event: IdentifiedEvent, isUrgent: boolean) => void;

/** Tokens that nobody reads as they come are told of after so long, ms. */
const gatherMs = 100;

/** @returns passes on what is urgent at once, with what has come before, and the rest now and then. */
function gathering(add: Add): Add {
  let held: IdentifiedEvent[] = [];
  let toldAt = -Infinity;
  return (event, isUrgent) => {
    held.push(event);
    const now = performance.now();
    if (!isUrgent && now - toldAt < gatherMs) return;
    toldAt = now;
    for (const one of held) add(one, isUrgent);
    held = [];
  };
}

/** What readers of streams cannot tell from one another, ms. */
const paceMs = 10;

/**
 * Gathers events until the end of this turn of the event loop, by when all requests of a step have made theirs, and
 * unless one is urgent until the last message is so old.
 */
function createOutbox(send: (events: readonly IdentifiedEvent[]) => void) {
  let waiting: IdentifiedEvent[] = [];
  let sentAt = -Infinity;
  let timer: NodeJS.Timeout | null = null;
  let isLeaving = false;
  const flush = (): void => {
    if (timer) clearTimeout(timer);
    timer = null;
    isLeaving = false;
    const events = waiting;
    waiting = [];
    if (events.length === 0) return;
    sentAt = performance.now();
    send(events);
  };
  const add: Add = (event, isUrgent) => {
    waiting.push(event);
    if (isLeaving) return;
    const restMs = isUrgent ? 0 : sentAt + paceMs - performance.now();
    if (restMs > 0) timer ??= setTimeout(flush, restMs);
    else {
      isLeaving = true;
      setImmediate(flush);
    }
  };
  return { add, flush };
}

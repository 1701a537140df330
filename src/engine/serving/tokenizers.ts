/**
 * The tokenizers of checkpoints as the API uses them: whole texts and long lists of ids go to a thread of their
 * own, bounded in number and time; the text of single tokens, while they are generated, is looked up here.
 */
import { Worker } from "node:worker_threads";
import { CodedError, fromErrorRecord } from "../../ops/errors.ts";
import type { ErrorRecord } from "../../ops/errors.ts";
import { loadTokenizerRef } from "../tokenizer/loadTokenizer.ts";
import type { Tokenizer } from "../tokenizer/tokenizer.ts";
import { createTokenizerCache } from "./tokenizerCache.ts";
import type { TokenizerSource } from "./tokenizerCache.ts";

export interface Tokenizers {
  /** For the text of tokens one by one. @throws tokenizer_invalid, checkpoint_missing_file */
  load(source: TokenizerSource): Promise<Tokenizer>;
  /** @returns the ids of each text. @throws tokenizer_invalid, timeout, too_many_requests */
  encode(source: TokenizerSource, texts: readonly string[], addSpecialTokens: boolean): Promise<number[][]>;
  /** @returns the text, special tokens included. @throws tokenizer_invalid, timeout, too_many_requests */
  decode(source: TokenizerSource, ids: readonly number[]): Promise<string>;
  close(): Promise<void>;
}

export type ThreadTask =
  | { readonly type: "encode"; readonly texts: readonly string[]; readonly addSpecialTokens: boolean }
  | { readonly type: "decode"; readonly ids: readonly number[] };

export interface ThreadRequest {
  readonly id: number;
  readonly source: TokenizerSource;
  readonly task: ThreadTask;
}

export interface ThreadAnswer {
  readonly id: number;
  readonly ids?: number[][];
  readonly text?: string;
  readonly error?: ErrorRecord;
}

/** Requests that may wait for the thread. */
const maxPending = 128;
/** The slowest tokenizer known here makes 55,000 tokens a second: 4 MiB of English in 20 s. */
const defaultTimeoutMs = 60_000;

interface Pending {
  resolve(answer: ThreadAnswer): void;
  reject(error: CodedError): void;
}

/** @returns tokenizers; the thread is started at the first need and does not keep the process alive. */
export function createTokenizers(options: { timeoutMs?: number } = {}): Tokenizers {
  const timeoutMs = options.timeoutMs ?? defaultTimeoutMs;
  const cache = createTokenizerCache(loadTokenizerRef);
  const pending = new Map<number, Pending>();
  let thread: Worker | null = null;
  let nextId = 0;

  function start(): Worker {
    const worker = new Worker(new URL("./tokenizerThread.ts", import.meta.url), { env: {}, execArgv: [] });
    worker.on("message", (answer: ThreadAnswer) => pending.get(answer.id)?.resolve(answer));
    worker.on("error", (cause) => void stop(new CodedError("compute_crashed", "the tokenizer thread died", { cause })));
    // After the listeners: adding one for messages keeps the process alive again.
    worker.unref();
    return worker;
  }

  /** Ends the thread with all that waits for it; the next request starts another. */
  async function stop(error: CodedError): Promise<void> {
    const worker = thread;
    thread = null;
    for (const { reject } of pending.values()) reject(error);
    pending.clear();
    await worker?.terminate();
  }

  async function ask(source: TokenizerSource, task: ThreadTask): Promise<ThreadAnswer> {
    if (pending.size >= maxPending) {
      throw new CodedError("too_many_requests", `${pending.size} requests wait for the tokenizer; come again later`);
    }
    thread ??= start();
    const id = nextId++;
    const outcome = Promise.withResolvers<ThreadAnswer>();
    pending.set(id, outcome);
    const late = new CodedError("timeout", `the tokenizer took longer than ${timeoutMs} ms`);
    const timer = setTimeout(() => void stop(late), timeoutMs);
    try {
      thread.postMessage({ id, source, task } satisfies ThreadRequest);
      const answer = await outcome.promise;
      if (answer.error) throw fromErrorRecord(answer.error);
      return answer;
    } finally {
      clearTimeout(timer);
      pending.delete(id);
    }
  }

  return {
    load: (source) => cache.get(source),
    async encode(source, texts, addSpecialTokens) {
      const { ids = [] } = await ask(source, { type: "encode", texts, addSpecialTokens });
      return ids;
    },
    decode: async (source, ids) => (await ask(source, { type: "decode", ids })).text ?? "",
    close: () => stop(new CodedError("unavailable", "the server is shutting down")),
  };
}

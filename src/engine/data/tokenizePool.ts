/**
 * Tokenizes batches of text on a few worker threads and gives the results back in the order of the batches, so
 * that the output does not depend on how many threads there are. At most two batches a thread are on their
 * way, which bounds memory whatever the size of the corpus.
 */
import { Worker } from "node:worker_threads";
import type { ErrorRecord } from "../../ops/errors.ts";
import { CodedError, fromErrorRecord } from "../../ops/errors.ts";
import type { BlobLocation, TokenizerRef } from "../../ops/manifest.ts";
import type { Tokenizer } from "../tokenizer/tokenizer.ts";

/** Texts of one side of the split, in order. */
export interface TokenizeBatch {
  readonly texts: readonly string[];
  /** Whether the end-of-sequence token follows text i: it does at the end of a document. */
  readonly endsDocument: readonly boolean[];
  readonly eosTokenId: number;
}

export type TokenizeAnswer =
  | { readonly id: number; readonly ids: Uint32Array<ArrayBuffer> }
  | { readonly id: number; readonly error: ErrorRecord };

/** Batches on their way for each thread. */
const batchesPerThread = 2;
/** A batch of a few megabytes takes seconds; a thread that needs longer than this is lost, ms. */
const batchTimeoutMs = 10 * 60_000;

/** @returns the ids of a batch with an end-of-sequence token after each document. */
export function encodeBatch(tokenizer: Tokenizer, batch: TokenizeBatch): Uint32Array<ArrayBuffer> {
  const parts = batch.texts.map((text) => tokenizer.encode(text, { addSpecialTokens: false }));
  const ends = batch.endsDocument.filter(Boolean).length;
  const ids = new Uint32Array(parts.reduce((total, part) => total + part.length, ends));
  let offset = 0;
  parts.forEach((part, index) => {
    ids.set(part, offset);
    offset += part.length;
    if (batch.endsDocument[index]) ids[offset++] = batch.eosTokenId;
  });
  return ids;
}

/** Heap of one thread, MB: a large vocabulary takes 400, a batch under way another 200. */
const threadHeapMb = 1536;

export interface TokenizedBatch<Batch> {
  readonly batch: Batch;
  readonly ids: Uint32Array<ArrayBuffer>;
}

interface Waiting {
  readonly resolve: (ids: Uint32Array<ArrayBuffer>) => void;
  readonly reject: (error: unknown) => void;
  readonly timer: NodeJS.Timeout;
}

/** One thread and the batches it owes. */
class TokenizeThread {
  readonly #worker: Worker;
  readonly #waiting = new Map<number, Waiting>();
  #nextId = 0;
  /** Why no batch will ever be answered again, once that is so. */
  #failure: CodedError | null = null;

  constructor(ref: TokenizerRef, blobs: Readonly<Record<string, BlobLocation>>) {
    const resourceLimits = { maxOldGenerationSizeMb: threadHeapMb };
    const options = { workerData: { ref, blobs }, env: {}, execArgv: [], resourceLimits };
    this.#worker = new Worker(new URL("./tokenizeWorker.ts", import.meta.url), options);
    this.#worker.on("message", (answer: TokenizeAnswer) => this.#settle(answer));
    this.#worker.on("error", (cause: NodeJS.ErrnoException) => {
      const outOfMemory = cause.code === "ERR_WORKER_OUT_OF_MEMORY";
      const code = outOfMemory ? "out_of_memory" : "compute_crashed";
      const problem = outOfMemory ? `needs more than ${threadHeapMb} MB` : "failed";
      this.#failAll(new CodedError(code, `a tokenizer thread ${problem}`, { cause }));
    });
    this.#worker.on("exit", () => this.#failAll(new CodedError("compute_crashed", "a tokenizer thread ended early")));
  }

  encode({ texts, endsDocument, eosTokenId }: TokenizeBatch): Promise<Uint32Array<ArrayBuffer>> {
    if (this.#failure) return Promise.reject(this.#failure);
    return new Promise((resolve, reject) => {
      const id = this.#nextId++;
      const timer = setTimeout(() => {
        this.#failAll(new CodedError("timeout", `a tokenizer thread did not answer within ${batchTimeoutMs} ms`));
      }, batchTimeoutMs);
      this.#waiting.set(id, { resolve, reject, timer });
      this.#worker.postMessage({ id, batch: { texts, endsDocument, eosTokenId } });
    });
  }

  async close(): Promise<void> {
    await this.#worker.terminate();
  }

  #settle(answer: TokenizeAnswer): void {
    const waiting = this.#waiting.get(answer.id);
    if (!waiting) return;
    this.#waiting.delete(answer.id);
    clearTimeout(waiting.timer);
    if ("ids" in answer) waiting.resolve(answer.ids);
    else waiting.reject(fromErrorRecord(answer.error));
  }

  #failAll(error: CodedError): void {
    this.#failure ??= error;
    for (const { reject, timer } of this.#waiting.values()) {
      clearTimeout(timer);
      reject(error);
    }
    this.#waiting.clear();
  }
}

export interface TokenizePoolOptions {
  readonly ref: TokenizerRef;
  readonly blobs: Readonly<Record<string, BlobLocation>>;
  /** Threads, at least 1. */
  readonly threads: number;
  readonly signal: AbortSignal;
}

/**
 * Tokenizes a stream of batches.
 * @returns each batch with its ids, in the order of the batches
 * @throws cancelled when the signal aborts; tokenizer_invalid, compute_crashed, out_of_memory, timeout
 */
export async function* tokenizeBatches<Batch extends TokenizeBatch>(
  batches: AsyncIterable<Batch>,
  options: TokenizePoolOptions,
): AsyncGenerator<TokenizedBatch<Batch>> {
  const threads = Array.from({ length: options.threads }, () => new TokenizeThread(options.ref, options.blobs));
  const pending: { batch: Batch; result: Promise<Uint32Array<ArrayBuffer>> }[] = [];
  let count = 0;
  let abort = (): void => undefined;
  const aborted = new Promise<never>((_, reject) => {
    abort = () => reject(new CodedError("cancelled", "the dataset build was cancelled"));
  });
  aborted.catch(() => undefined);
  options.signal.addEventListener("abort", abort, { once: true });
  if (options.signal.aborted) abort();
  async function* settle(atMost: number): AsyncGenerator<TokenizedBatch<Batch>> {
    while (pending.length > atMost) {
      const first = pending.shift();
      if (first) yield { batch: first.batch, ids: await Promise.race([first.result, aborted]) };
    }
  }
  try {
    for await (const batch of batches) {
      const result = threads[count++ % threads.length]?.encode(batch) ?? aborted;
      // Awaited in order below; until then an early failure must not count as unhandled.
      result.catch(() => undefined);
      pending.push({ batch, result });
      yield* settle(threads.length * batchesPerThread - 1);
    }
    yield* settle(0);
  } finally {
    options.signal.removeEventListener("abort", abort);
    await Promise.all(threads.map((thread) => thread.close()));
  }
}

/** The same without a thread, for corpora so small that starting one would take longer than the work. */
export async function* tokenizeHere<Batch extends TokenizeBatch>(
  batches: AsyncIterable<Batch>,
  tokenizer: Tokenizer,
): AsyncGenerator<TokenizedBatch<Batch>> {
  for await (const batch of batches) yield { batch, ids: encodeBatch(tokenizer, batch) };
}

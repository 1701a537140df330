/**
 * The log of what was measured on each doc: one JSON object a line, docs in order, written to the blob
 * directory as it grows, so that memory does not depend on the number of docs. Hashes are those that the
 * harness logs, so two logs can be joined doc by doc; texts are left out, for the hashes name them.
 * Source: lm_eval/evaluator.py v0.4.13, `log_samples`.
 */
import { createHash } from "node:crypto";
import type { BlobWriter } from "../checkpoint/blobs.ts";
import { createBlobWriter } from "../checkpoint/blobs.ts";
import type { SampleLogRef } from "../backends/work.ts";
import { reported } from "./aggregate.ts";
import type { MetricName } from "./metrics.ts";
import type { ScoringResult, TaskDoc } from "./task.ts";

/** Text collected before it is written, UTF-16 units. */
const bufferLength = 256 * 1024;

/** One line of the log. Numbers that are not finite stand as text: `NaN`, `-Infinity`. */
export interface SampleRecord {
  readonly task: string;
  /** Number of the doc in its file, from 0. */
  readonly doc_id: number;
  /** SHA-256 of the doc's JSON, as Python writes it. */
  readonly doc_hash: string;
  /** SHA-256 of the first request's context, examples included; of the text for a rolling request. */
  readonly prompt_hash: string;
  /** SHA-256 of the gold index, the continuation, or the text. */
  readonly target_hash: string;
  /** Index of the right choice; null where there are no choices. */
  readonly gold: number | null;
  /** Whether `acc` is 1; null for a task without it. */
  readonly correct: boolean | null;
  /** One a request, in the order of the choices. */
  readonly log_likelihoods: readonly (number | string)[];
  /** Whether every token of the request's continuation was the most probable one; false for rolling requests. */
  readonly is_greedy: readonly boolean[];
  /** The doc's share of each metric; [log-likelihood, words or bytes] for those divided by a weight. */
  readonly metrics: Readonly<Partial<Record<MetricName, number | string | readonly [number | string, number]>>>;
}

function sha256(text: string): string {
  return createHash("sha256").update(text).digest("hex");
}

/** Metrics whose items the harness logs as a pair. */
const weighted: readonly MetricName[] = ["word_perplexity", "byte_perplexity", "bits_per_byte"];

/**
 * @param task name of the task
 * @param names the metrics of the task
 * @param results `results[i]` answers `doc.requests[i]`
 */
export function makeSample(
  task: string,
  docId: number,
  docHash: string,
  doc: TaskDoc,
  names: readonly MetricName[],
  results: readonly ScoringResult[],
): SampleRecord {
  const [request] = doc.requests;
  const scores = doc.score(results);
  const logged = names.map((name) => {
    const { value = Number.NaN, weight = 1 } = scores[name] ?? {};
    return [name, weighted.includes(name) ? ([reported(value), weight] as const) : reported(value)];
  });
  return {
    task,
    doc_id: docId,
    doc_hash: docHash,
    prompt_hash: sha256(request?.kind === "loglikelihood" ? request.context : (request?.text ?? "")),
    target_hash: sha256(doc.target),
    gold: doc.gold,
    correct: names.includes("acc") ? scores.acc?.value === 1 : null,
    log_likelihoods: results.map(({ logLikelihood }) => reported(logLikelihood)),
    is_greedy: results.map(({ isGreedy }, i) => isGreedy && doc.requests[i]?.kind === "loglikelihood"),
    metrics: Object.fromEntries(logged) as SampleRecord["metrics"],
  };
}

/** A log being written. Exactly one of `finish` and `abort` ends it. */
export class SampleLog {
  readonly #writer: BlobWriter;
  #buffer = "";
  #numSamples = 0;

  /** Use `createSampleLog`. */
  constructor(writer: BlobWriter) {
    this.#writer = writer;
  }

  /** @throws storage_full */
  async add(sample: SampleRecord): Promise<void> {
    this.#buffer += `${JSON.stringify(sample)}\n`;
    this.#numSamples += 1;
    if (this.#buffer.length >= bufferLength) await this.#flush();
  }

  /** @throws storage_full */
  async finish(): Promise<SampleLogRef> {
    await this.#flush();
    return { blob: await this.#writer.finish(), numSamples: this.#numSamples };
  }

  /** Drops what was written; safe after `finish`. */
  async abort(): Promise<void> {
    await this.#writer.abort();
  }

  async #flush(): Promise<void> {
    const text = this.#buffer;
    this.#buffer = "";
    await this.#writer.write(new TextEncoder().encode(text));
  }
}

/** @throws storage_full */
export async function createSampleLog(blobDir: string): Promise<SampleLog> {
  return new SampleLog(await createBlobWriter(blobDir));
}

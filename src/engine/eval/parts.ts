/**
 * What an evaluation keeps of the docs it has scored, so that a later attempt at the same job asks the model about
 * the others only. A part is plain JSON and names the data it was measured on: where a file has changed meanwhile,
 * nothing of it is used. A number survives JSON exactly, so a resumed evaluation ends with the same bits.
 */
import type { JsonObject, JsonValue } from "../../ops/manifest.ts";
import { reported } from "./aggregate.ts";
import type { ScoringResult } from "./task.ts";

/** Parts are this far apart at least, ms: a part is a row of a table. */
const partEveryMs = 1_000;

/** What the scores of a task depend on beside the request: its docs and what their examples are drawn from. */
export interface PartKey {
  readonly task: string;
  readonly datasetDigest: string;
  readonly fewshotDigest: string | null;
}

function fieldsOf(key: PartKey): JsonObject {
  return { task: key.task, dataset_digest: key.datasetDigest, fewshot_digest: key.fewshotDigest };
}

/** Collects scored docs until there is time for a part. */
export class PartWriter {
  readonly #key: PartKey;
  #docs: number[] = [];
  #results: JsonValue[] = [];
  #lastMs = performance.now();

  constructor(key: PartKey) {
    this.#key = key;
  }

  add(doc: number, results: readonly ScoringResult[]): void {
    this.#docs.push(doc);
    this.#results.push(results.map(({ logLikelihood, isGreedy }) => [reported(logLikelihood), isGreedy]));
  }

  /** @returns what was added since the last part, or null when there is nothing or the last part is too young. */
  take(minimumAgeMs = partEveryMs): JsonObject | null {
    if (this.#docs.length === 0 || performance.now() - this.#lastMs < minimumAgeMs) return null;
    const part = { ...fieldsOf(this.#key), docs: this.#docs, results: this.#results };
    this.#docs = [];
    this.#results = [];
    this.#lastMs = performance.now();
    return part;
  }
}

/**
 * @param parts as `PartWriter` made them, of any task
 * @param requestCounts requests of each doc
 * @returns the results of the docs that parts of this key hold, by doc
 */
export function readParts(
  parts: readonly JsonObject[],
  key: PartKey,
  requestCounts: readonly number[],
): Map<number, readonly ScoringResult[]> {
  const found = new Map<number, readonly ScoringResult[]>();
  const wanted = Object.entries(fieldsOf(key));
  for (const part of parts) {
    if (!wanted.every(([name, value]) => part[name] === value)) continue;
    const docs = part["docs"] as readonly number[];
    const results = part["results"] as unknown as readonly (readonly [number | string, boolean])[][];
    docs.forEach((doc, i) => {
      const own = (results[i] ?? []).map(([likelihood, isGreedy]) => {
        return { logLikelihood: Number(likelihood), isGreedy };
      });
      if (own.length === requestCounts[doc]) found.set(doc, own);
    });
  }
  return found;
}

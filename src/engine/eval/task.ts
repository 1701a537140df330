/**
 * What a benchmark task is: where its docs are had, how one line of its file becomes requests to a model, and
 * which scores the answers give. It never sees a model or a token. Adding one: a file in `tasks/`, a line in
 * `index.ts`, a test. Rules and names are those of lm-evaluation-harness.
 */
import { CodedError } from "../../ops/errors.ts";
import type { MetricName, ScoreItem } from "./metrics.ts";
import { argmax } from "./metrics.ts";
import { codePointLength } from "./pythonText.ts";

/** One question to the model. */
export type ScoringRequest =
  /** ln p(continuation | context). */
  | { readonly kind: "loglikelihood"; readonly context: string; readonly continuation: string }
  /** ln p of a whole text, in windows. */
  | { readonly kind: "rolling"; readonly text: string };

export interface ScoringResult {
  readonly logLikelihood: number;
  /** Every token was the most probable one; false for rolling requests. */
  readonly isGreedy: boolean;
}

/** One example, ready to be asked. */
export interface TaskDoc {
  readonly requests: readonly ScoringRequest[];
  /** What the harness logs as the target: the gold index, the continuation, or the text. */
  readonly target: string;
  /** @returns a score for every metric of the task; `results[i]` answers `requests[i]`. */
  score(results: readonly ScoringResult[]): Readonly<Partial<Record<MetricName, ScoreItem>>>;
}

/** Where the docs of a task are had, for a person who has to get them. */
export interface TaskDataset {
  /** Name on the Hugging Face hub. */
  readonly repository: string;
  readonly config: string | null;
  readonly split: string;
  readonly numDocs: number;
  /** Names under which the file is looked for in a folder, best first. */
  readonly fileNames: readonly string[];
  /** The fields of a line, as in the data set. */
  readonly fields: string;
}

export interface Task {
  readonly name: string;
  /** Version of the task in the harness. */
  readonly version: string;
  readonly dataset: TaskDataset;
  readonly metrics: readonly MetricName[];
  /** @throws dataset_invalid naming line and field */
  parseDoc(fields: DocFields): TaskDoc;
}

/** The fields of one line of a task file: hostile until read through here. */
export class DocFields {
  readonly #value: Readonly<Record<string, unknown>>;
  readonly #where: string;

  /** @param where names the line in messages, such as `arc_easy line 3` */
  constructor(value: Readonly<Record<string, unknown>>, where: string) {
    this.#value = value;
    this.#where = where;
  }

  has(field: string): boolean {
    return Object.hasOwn(this.#value, field);
  }

  string(field: string): string {
    const value = this.#get(field);
    return typeof value === "string" ? value : this.fail(`field "${field}" is not a string`);
  }

  /** @returns an integer from 0 to below `limit`. */
  index(field: string, limit: number): number {
    const value = this.#get(field);
    if (typeof value === "number" && Number.isInteger(value) && value >= 0 && value < limit) return value;
    return this.fail(`field "${field}" is ${JSON.stringify(value)}, an integer from 0 to ${limit - 1} is wanted`);
  }

  /** @returns a list of `minimum` to `maximum` strings. */
  strings(field: string, minimum: number, maximum: number): string[] {
    const value = this.#get(field);
    if (!Array.isArray(value)) return this.fail(`field "${field}" is not a list`);
    if (value.length < minimum || value.length > maximum) {
      return this.fail(`field "${field}" has ${value.length} entries, ${minimum} to ${maximum} are wanted`);
    }
    return value.map((item) => (typeof item === "string" ? item : this.fail(`field "${field}" holds no strings`)));
  }

  /** @returns the fields of an object within. */
  object(field: string): DocFields {
    const value = this.#get(field);
    if (typeof value !== "object" || value === null || Array.isArray(value)) {
      return this.fail(`field "${field}" is not an object`);
    }
    return new DocFields(value as Record<string, unknown>, `${this.#where}: ${field}`);
  }

  isList(field: string): boolean {
    return this.has(field) && Array.isArray(this.#value[field]);
  }

  /** @throws dataset_invalid with the line in front of the problem */
  fail(problem: string): never {
    throw new CodedError("dataset_invalid", `${this.#where}: ${problem}`);
  }

  #get(field: string): unknown {
    return this.has(field) ? this.#value[field] : this.fail(`field "${field}" missing`);
  }
}

/**
 * A doc whose answer is one of several choices: one request a choice, the most likely one wins. `acc` compares
 * log-likelihoods, `acc_norm` divides each by the length of the choice in code points first, without the space
 * put before it; an empty choice thus scores minus infinity.
 */
export function multipleChoice(context: string, choices: readonly string[], gold: number): TaskDoc {
  return {
    requests: choices.map((choice) => ({ kind: "loglikelihood", context, continuation: ` ${choice}` })),
    target: String(gold),
    score(results) {
      const likelihoods = results.map((result) => result.logLikelihood);
      const normalized = likelihoods.map((likelihood, i) => likelihood / codePointLength(choices[i] ?? ""));
      return {
        acc: { value: argmax(likelihoods) === gold ? 1 : 0, weight: 1 },
        acc_norm: { value: argmax(normalized) === gold ? 1 : 0, weight: 1 },
      };
    },
  };
}

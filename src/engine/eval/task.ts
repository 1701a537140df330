/**
 * What a benchmark task is: where its docs are had, how one line of its file becomes requests to a model, and
 * which scores the answers give. It never sees a model or a token. Adding one: a file in `tasks/`, a line in
 * `index.ts`, a test. Rules and names are those of lm-evaluation-harness.
 */
import { CodedError } from "../../ops/errors.ts";
import type { StrictObject, StrictValue } from "../checkpoint/strictJson.ts";
import { InexactNumber } from "../checkpoint/strictJson.ts";
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
  /** Index of the right choice; null where there are none to choose from. */
  readonly gold: number | null;
  /** @returns the doc as an example before another one's question: with its answer and what divides them. */
  shot(): string;
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

/**
 * Where the examples of a few-shot prompt come from. The harness takes the training split where the data set
 * has one, else the split that is evaluated; where it knows of no test split it draws one example more and
 * leaves out the doc itself, else it does not look.
 */
export type FewshotSource =
  | {
      readonly from: "file";
      readonly split: string;
      /** Names under which the file is looked for in a folder, best first. */
      readonly fileNames: readonly string[];
      readonly excludesDoc: boolean;
    }
  /** The evaluated docs themselves, none excluded. */
  | { readonly from: "docs" }
  /** The task takes no examples. */
  | { readonly from: "none" };

export interface Task {
  readonly name: string;
  /** Version of the task in the harness. */
  readonly version: string;
  readonly dataset: TaskDataset;
  readonly fewshot: FewshotSource;
  readonly metrics: readonly MetricName[];
  /** @throws dataset_invalid naming line and field */
  parseDoc(fields: DocFields): TaskDoc;
  /** What the harness makes of a line before it hashes it, where it makes something; the line is a valid doc. */
  processDoc?(line: StrictObject): StrictObject;
}

/** Between question and answer, and after an answer, as the harness puts them by default. */
export const targetDelimiter = " ";
export const fewshotDelimiter = "\n\n";

/** The training split as source of examples. */
export function trainingShots(taskName: string, excludesDoc: boolean): FewshotSource {
  const fileNames = ["train.jsonl", `${taskName}_train.jsonl`];
  return { from: "file", split: "train", fileNames, excludesDoc };
}

/** The fields of one line of a task file: hostile until read through here. */
export class DocFields {
  readonly #value: StrictObject;
  readonly #where: string;

  /** @param where names the line in messages, such as `arc_easy line 3` */
  constructor(value: StrictObject, where: string) {
    this.#value = value;
    this.#where = where;
  }

  has(field: string): boolean {
    return this.#value.has(field);
  }

  string(field: string): string {
    const value = this.#get(field);
    return typeof value === "string" ? value : this.fail(`field "${field}" is not a string`);
  }

  /** @returns an integer from 0 to below `limit`. */
  index(field: string, limit: number): number {
    const value = this.#get(field);
    if (typeof value === "number" && Number.isInteger(value) && value >= 0 && value < limit) return value;
    return this.fail(`field "${field}" is ${shown(value)}, an integer from 0 to ${limit - 1} is wanted`);
  }

  /** @returns the number from 0 to below `limit` (at most 10) that a field holds, as a number or as one digit. */
  digit(field: string, limit: number): number {
    const value = this.#get(field);
    if (typeof value !== "string") return this.index(field, limit);
    if (/^[0-9]$/.test(value) && Number(value) < limit) return Number(value);
    return this.fail(`field "${field}" is ${shown(value)}, a digit from 0 to ${limit - 1} is wanted`);
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
    if (!(value instanceof Map)) return this.fail(`field "${field}" is not an object`);
    return new DocFields(value, `${this.#where}: ${field}`);
  }

  isList(field: string): boolean {
    return Array.isArray(this.#value.get(field));
  }

  /** @throws dataset_invalid with the line in front of the problem */
  fail(problem: string): never {
    throw new CodedError("dataset_invalid", `${this.#where}: ${problem}`);
  }

  #get(field: string): StrictValue {
    return this.#value.get(field) ?? (this.has(field) ? null : this.fail(`field "${field}" missing`));
  }
}

/** Characters of a wrong value that a message shows, at most. */
const maxShown = 80;

function shown(value: StrictValue): string {
  if (value instanceof Map) return "an object";
  if (Array.isArray(value)) return "a list";
  const text = value instanceof InexactNumber ? value.text : JSON.stringify(value);
  return text.length > maxShown ? `${text.slice(0, maxShown)}...` : text;
}

/**
 * A doc whose answer is one of several choices: one request a choice, the most likely one wins. `acc` compares
 * log-likelihoods, `acc_norm` divides each by the length of the choice in code points first, without the space
 * put before it; an empty choice thus scores minus infinity.
 */
export function multipleChoice(context: string, choices: readonly string[], gold: number): TaskDoc {
  return {
    requests: choices.map((choice) => {
      return { kind: "loglikelihood", context, continuation: targetDelimiter + choice };
    }),
    target: String(gold),
    gold,
    shot: () => context + targetDelimiter + (choices[gold] ?? "") + fewshotDelimiter,
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

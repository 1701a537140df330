/**
 * Few-shot prompts: which examples stand before a doc's question. One random stream a task, seeded with 1234,
 * from which every doc in turn draws its own examples; so the prompts of the first docs do not depend on how
 * many follow, but those of a doc do on how many went before. Source: lm_eval/api/samplers.py and
 * `fewshot_context` of lm_eval/api/task.py, v0.4.13.
 */
import { CodedError } from "../../ops/errors.ts";
import type { TaskData } from "../backends/work.ts";
import { MersenneTwister } from "./mersenneTwister.ts";
import { sampleIndices } from "./pythonRandom.ts";
import type { TaskDocs } from "./readDocs.ts";
import { expectedFile, readDocs } from "./readDocs.ts";
import type { Task, TaskDoc } from "./task.ts";

/** The harness's default for `--seed`, as far as examples go. */
export const fewshotSeed = 1234;
/** The largest seed taken: one word of CPython's generator. */
export const maxSeed = 2 ** 32 - 1;
/** Examples before a question, at most; the harness knows no limit, the largest in use is 25. */
export const maxFewshot = 1000;

/** The docs that examples are drawn from. */
export interface ShotPool {
  readonly docs: readonly TaskDoc[];
  /** `doc_hash` of each: two docs are the same if they are equal in all fields. */
  readonly hashes: readonly string[];
  readonly excludesDoc: boolean;
}

/** What the examples of a task were, for its result. */
export interface Shots {
  readonly count: number;
  readonly split: string | null;
  /** SHA-256 of the file; null where no examples were drawn. */
  readonly digest: string | null;
  /** @returns the docs with their examples before their questions; call once, with docs in order. */
  prepend(docs: TaskDocs): readonly TaskDoc[];
}

const noShots: Shots = { count: 0, split: null, digest: null, prepend: ({ docs }) => docs };

/** @throws invalid_request unless it is an integer that a prompt can have examples */
export function checkNumFewshot(count: number): number {
  if (Number.isSafeInteger(count) && count >= 0 && count <= maxFewshot) return count;
  throw new CodedError("invalid_request", `num_fewshot is ${count}, an integer from 0 to ${maxFewshot} is wanted`);
}

/** @throws invalid_request unless it is an integer that a random stream can begin with */
export function checkSeed(seed: number): number {
  if (Number.isSafeInteger(seed) && seed >= 0 && seed <= maxSeed) return seed;
  throw new CodedError("invalid_request", `seed is ${seed}, an integer from 0 to ${maxSeed} is wanted`);
}

/**
 * Reads what the examples of a task are drawn from. A task that takes none gets none, whatever was asked for,
 * and its result says so.
 * @throws dataset_invalid when the file is missing, wrong, or has too few docs
 */
export async function loadShots(task: Task, data: TaskData, count: number, seed = fewshotSeed): Promise<Shots> {
  const { fewshot } = task;
  if (count === 0 || fewshot.from === "none") return noShots;
  const isFile = fewshot.from === "file";
  const path = isFile ? data.shotsPath : data.path;
  if (path === undefined) {
    const wanted = expectedFile(task, "shots");
    throw new CodedError("dataset_invalid", `${task.name}: num_fewshot is ${count} and there is no file of ${wanted}`);
  }
  const { docs, hashes, digest } = await readDocs(task, path, null, isFile ? "shots" : "docs");
  const pool = { docs, hashes, excludesDoc: isFile && fewshot.excludesDoc };
  const needed = pool.excludesDoc ? count + 1 : count;
  if (docs.length < needed) {
    const problem = `num_fewshot ${count} draws ${needed} examples, the file has ${docs.length} docs`;
    throw new CodedError("dataset_invalid", `${task.name}: ${problem}`);
  }
  const draw = shotDrawer(task.name, pool, count, seed);
  return {
    count,
    split: isFile ? fewshot.split : task.dataset.split,
    digest,
    prepend: (evaluated) => evaluated.docs.map((doc, i) => withShots(doc, draw(evaluated.hashes[i] ?? ""))),
  };
}

/**
 * @param pool at least `count` docs, one more where it excludes the evaluated one
 * @returns what gives each doc, named by its hash, the text of its examples; call it for one doc after another
 * @throws dataset_invalid from within when too few docs differ from the evaluated one
 */
export function shotDrawer(
  taskName: string,
  pool: ShotPool,
  count: number,
  seed = fewshotSeed,
): (docHash: string) => string {
  const random = new MersenneTwister(seed);
  const { docs, hashes, excludesDoc } = pool;
  const drawOthers = (docHash: string): number[] => {
    const drawn = sampleIndices(random, docs.length, count + 1);
    const kept = drawn.filter((i) => hashes[i] !== docHash).slice(0, count);
    if (kept.length === count) return kept;
    // Copies of the doc were drawn more than once: the harness draws again, from all that are no copies.
    const others = docs.map((_, i) => i).filter((i) => hashes[i] !== docHash);
    if (others.length < count) {
      const problem = `the file has ${others.length} docs that differ from the evaluated one`;
      throw new CodedError("dataset_invalid", `${taskName}: num_fewshot is ${count}, and ${problem}`);
    }
    return sampleIndices(random, others.length, count).map((i) => others[i] ?? 0);
  };
  return (docHash) => {
    const drawn = excludesDoc ? drawOthers(docHash) : sampleIndices(random, docs.length, count);
    return drawn.map((i) => docs[i]?.shot() ?? "").join("");
  };
}

function withShots(doc: TaskDoc, shots: string): TaskDoc {
  const requests = doc.requests.map((request) => {
    return request.kind === "loglikelihood" ? { ...request, context: shots + request.context } : request;
  });
  return { ...doc, requests };
}

/**
 * From the answers of all docs of a task to its metrics, under the keys that the harness gives them.
 */
import type { MetricName, ScoreItem } from "./metrics.ts";
import { metrics, standardError } from "./metrics.ts";
import type { TaskDocs } from "./readDocs.ts";
import type { ScoringResult, Task } from "./task.ts";

/** The items of one metric, a doc each; every doc of a task scores every metric of it. */
function itemsOf(name: MetricName, scored: readonly Readonly<Partial<Record<MetricName, ScoreItem>>>[]): ScoreItem[] {
  return scored.map((scores) => {
    const item = scores[name];
    if (!item) throw new Error(`invariant: no ${name} for a doc`);
    return item;
  });
}

/** JSON has no numbers that are not finite: a model that has diverged is reported as `NaN` or `Infinity`. */
export function reported(value: number): number | string {
  return Number.isFinite(value) ? value : String(value);
}

/**
 * Aggregates the answers of all docs of a task, in steps: the bootstrap takes seconds.
 * @yields replicates done; the return value has the keys of the harness, such as `acc,none`
 */
export function* aggregate(
  task: Task,
  docs: TaskDocs["docs"],
  results: readonly (readonly ScoringResult[])[],
  bootstrapIterations: number,
): Generator<number, Record<string, number | string>> {
  const scored = docs.map((doc, i) => doc.score(results[i] ?? []));
  const values: Record<string, number | string> = {};
  for (const name of task.metrics) {
    const items = itemsOf(name, scored);
    values[`${name},none`] = reported(metrics[name].aggregate(items));
    const error = yield* standardError(name, items, bootstrapIterations);
    values[`${name}_stderr,none`] = typeof error === "number" ? reported(error) : error;
  }
  return values;
}

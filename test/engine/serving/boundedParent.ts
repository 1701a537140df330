/** ENTRY of a parent that gives its bounded process an endless task, and says when that has begun. */
import { BoundedProcess } from "../../../src/engine/serving/boundedProcess.ts";

const entry = new URL("./boundedTasks.ts", import.meta.url);
const bounded = new BoundedProcess<string, string>({
  entry,
  what: "the task",
  maxWaiting: 2,
  timeoutMs: 60_000,
  heapMiB: 64,
});
const answer = await bounded.ask("pid");
void bounded.ask("loop").catch(() => undefined);
console.log(answer.split(" ").at(-1));

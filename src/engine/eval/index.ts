/**
 * The benchmark tasks there are, by name. A new one is a file in `tasks/` and a line here; the contract suite
 * runs on every entry.
 */
import type { Task } from "./task.ts";
import { arcChallenge, arcEasy } from "./tasks/arc.ts";
import { boolq } from "./tasks/boolq.ts";
import { hellaswag } from "./tasks/hellaswag.ts";
import { lambadaOpenai } from "./tasks/lambadaOpenai.ts";
import { logiqa } from "./tasks/logiqa.ts";
import { openbookqa } from "./tasks/openbookqa.ts";
import { piqa } from "./tasks/piqa.ts";
import { sciq } from "./tasks/sciq.ts";
import { wikitext } from "./tasks/wikitext.ts";
import { winogrande } from "./tasks/winogrande.ts";

export const tasks: readonly Task[] = [
  arcChallenge,
  arcEasy,
  boolq,
  hellaswag,
  lambadaOpenai,
  logiqa,
  openbookqa,
  piqa,
  sciq,
  wikitext,
  winogrande,
];

/** @returns the task of that name, or null. */
export function findTask(name: string): Task | null {
  return tasks.find((task) => task.name === name) ?? null;
}

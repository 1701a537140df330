/**
 * PIQA: which of two ways reaches a goal in the physical world. The validation split, for the test split has no
 * labels. Source: lm_eval/tasks/piqa.
 */
import type { Task } from "../task.ts";
import { multipleChoice, trainingShots } from "../task.ts";

export const piqa: Task = {
  name: "piqa",
  version: "1.0",
  dataset: {
    repository: "baber/piqa",
    config: null,
    split: "validation",
    numDocs: 1838,
    fileNames: ["validation.jsonl", "piqa.jsonl"],
    fields: "goal: string, sol1: string, sol2: string, label: 0 or 1",
  },
  fewshot: trainingShots("piqa", true),
  metrics: ["acc", "acc_norm"],
  parseDoc(fields) {
    const choices = [fields.string("sol1"), fields.string("sol2")];
    return multipleChoice(`Question: ${fields.string("goal")}\nAnswer:`, choices, fields.index("label", 2));
  },
};

/**
 * BoolQ: yes-or-no questions about a passage, from SuperGLUE. The validation split, for the test split has no
 * labels. "no" is the first choice, so it wins a tie. Source: lm_eval/tasks/super_glue/boolq.
 */
import type { Task } from "../task.ts";
import { multipleChoice, trainingShots } from "../task.ts";

const choices = ["no", "yes"];

export const boolq: Task = {
  name: "boolq",
  version: "2.0",
  dataset: {
    repository: "aps/super_glue",
    config: "boolq",
    split: "validation",
    numDocs: 3270,
    fileNames: ["validation.jsonl", "boolq.jsonl"],
    fields: "question: string, passage: string, idx: integer, label: 0 or 1",
  },
  fewshot: trainingShots("boolq", true),
  metrics: ["acc"],
  parseDoc(fields) {
    const context = `${fields.string("passage")}\nQuestion: ${fields.string("question")}?\nAnswer:`;
    return multipleChoice(context, choices, fields.index("label", choices.length));
  },
};

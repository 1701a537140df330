/**
 * SciQ: science exam questions with a supporting text, which may be empty; the prompt then begins with a line
 * break. The correct answer is always the fourth choice, so a model that cannot tell gets none right.
 * Source: lm_eval/tasks/sciq.
 */
import { trimStart } from "../pythonText.ts";
import type { Task } from "../task.ts";
import { multipleChoice, trainingShots } from "../task.ts";

const choiceFields = ["distractor1", "distractor2", "distractor3", "correct_answer"];

export const sciq: Task = {
  name: "sciq",
  version: "1.0",
  dataset: {
    repository: "allenai/sciq",
    config: null,
    split: "test",
    numDocs: 1000,
    fileNames: ["test.jsonl", "sciq.jsonl"],
    fields: "question, support, distractor1, distractor2, distractor3, correct_answer: strings",
  },
  fewshot: trainingShots("sciq", false),
  metrics: ["acc", "acc_norm"],
  parseDoc(fields) {
    const choices = choiceFields.map((field) => fields.string(field));
    const context = `${trimStart(fields.string("support"))}\nQuestion: ${fields.string("question")}\nAnswer:`;
    return multipleChoice(context, choices, choiceFields.indexOf("correct_answer"));
  },
};

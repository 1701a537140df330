/**
 * LogiQA: reading comprehension that needs logic, four options. The options stand in the prompt with letters,
 * but what is scored is their full text. Source: lm_eval/tasks/logiqa.
 */
import { trim } from "../pythonText.ts";
import type { Task } from "../task.ts";
import { multipleChoice, trainingShots } from "../task.ts";

const letters = ["a", "b", "c", "d"];

export const logiqa: Task = {
  name: "logiqa",
  version: "1.0",
  dataset: {
    repository: "EleutherAI/logiqa",
    config: "logiqa",
    split: "test",
    numDocs: 651,
    fileNames: ["test.jsonl", "logiqa.jsonl"],
    fields: "context: string, question: string, options: string[4], label: a to d",
  },
  fewshot: trainingShots("logiqa", false),
  metrics: ["acc", "acc_norm"],
  parseDoc(fields) {
    const options = fields.strings("options", letters.length, letters.length);
    const label = trim(fields.string("label"));
    const gold = letters.indexOf(label);
    if (gold < 0) fields.fail(`field "label" is ${JSON.stringify(label)}, one of ${letters.join(", ")} is wanted`);
    const listed = options.map((option, i) => `${"ABCD".charAt(i)}. ${option}\n`).join("");
    const question = `Passage: ${fields.string("context")}\nQuestion: ${fields.string("question")}\n`;
    return multipleChoice(`${question}Choices:\n${listed}Answer:`, options, gold);
  },
};

/**
 * OpenBookQA: elementary science questions, without the book. The prompt is the bare stem, no "Question:" and no
 * "Answer:". Source: lm_eval/tasks/openbookqa.
 */
import { trimStart } from "../pythonText.ts";
import type { Task } from "../task.ts";
import { multipleChoice, trainingShots } from "../task.ts";

/** Choices of a question; the data set has four. */
const minChoices = 2;
const maxChoices = 8;

export const openbookqa: Task = {
  name: "openbookqa",
  version: "1.0",
  dataset: {
    repository: "allenai/openbookqa",
    config: "main",
    split: "test",
    numDocs: 500,
    fileNames: ["test.jsonl", "openbookqa.jsonl"],
    fields: "question_stem: string, choices: { text: string[], label: string[] }, answerKey: string",
  },
  fewshot: trainingShots("openbookqa", false),
  metrics: ["acc", "acc_norm"],
  parseDoc(fields) {
    const nested = fields.object("choices");
    const choices = nested.strings("text", minChoices, maxChoices);
    const labels = nested.strings("label", choices.length, choices.length);
    const key = trimStart(fields.string("answerKey"));
    const gold = labels.indexOf(key);
    if (gold < 0) fields.fail(`field "answerKey" is ${JSON.stringify(key)}, one of ${labels.join(", ")} is wanted`);
    return multipleChoice(fields.string("question_stem"), choices, gold);
  },
};

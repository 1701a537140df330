/**
 * ARC: grade-school science questions with three to five choices; the easy and the challenge set differ in
 * nothing but their docs. Lines are taken in the shape of the data set on the hub (`choices.text`,
 * `choices.label`, `answerKey`; labels are letters or digits) or flattened (`choices`, `gold` from 0). Copies
 * in circulation have a wrong `gold` where the key is a digit; where a line has both, they must agree.
 * Source: lm_eval/tasks/arc.
 */
import type { DocFields, Task } from "../task.ts";
import { multipleChoice } from "../task.ts";

/** Choices of a question. */
const minChoices = 2;
const maxChoices = 8;

function readChoices(fields: DocFields): { choices: string[]; gold: number } {
  if (fields.isList("choices")) {
    const choices = fields.strings("choices", minChoices, maxChoices);
    return { choices, gold: fields.index("gold", choices.length) };
  }
  const nested = fields.object("choices");
  const choices = nested.strings("text", minChoices, maxChoices);
  const labels = nested.strings("label", choices.length, choices.length);
  const key = fields.string("answerKey");
  const gold = labels.indexOf(key);
  if (gold < 0) fields.fail(`field "answerKey" is ${JSON.stringify(key)}, one of ${labels.join(", ")} is wanted`);
  if (fields.has("gold") && fields.index("gold", choices.length) !== gold) {
    fields.fail(`field "gold" is not the index of answerKey, which is ${gold}`);
  }
  return { choices, gold };
}

function arc(name: string, config: string, numDocs: number): Task {
  return {
    name,
    version: "1.0",
    dataset: {
      repository: "allenai/ai2_arc",
      config,
      split: "test",
      numDocs,
      fileNames: ["test.hf.jsonl", "test.jsonl", `${name}.jsonl`],
      fields: "question: string, choices: { text: string[], label: string[] }, answerKey: string",
    },
    fewshot: {
      from: "file",
      split: "train",
      fileNames: ["train.hf.jsonl", "train.jsonl", `${name}_train.jsonl`],
      excludesDoc: false,
    },
    metrics: ["acc", "acc_norm"],
    parseDoc(fields) {
      const { choices, gold } = readChoices(fields);
      return multipleChoice(`Question: ${fields.string("question")}\nAnswer:`, choices, gold);
    },
  };
}

export const arcEasy = arc("arc_easy", "ARC-Easy", 2376);
export const arcChallenge = arc("arc_challenge", "ARC-Challenge", 1172);

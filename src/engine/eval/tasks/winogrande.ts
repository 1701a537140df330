/**
 * WinoGrande: which of two names a blank stands for. Both are put in, and the *same* rest of the sentence is
 * scored after each ("partial evaluation"). Source: lm_eval/tasks/winogrande.
 */
import { argmax } from "../metrics.ts";
import { trim } from "../pythonText.ts";
import type { Task } from "../task.ts";
import { fewshotDelimiter, targetDelimiter, trainingShots } from "../task.ts";

const answers = ["1", "2"];

export const winogrande: Task = {
  name: "winogrande",
  version: "1.0",
  dataset: {
    repository: "allenai/winogrande",
    config: "winogrande_xl",
    split: "validation",
    numDocs: 1267,
    fileNames: ["validation.jsonl", "winogrande.jsonl"],
    fields: "sentence: string with _, option1: string, option2: string, answer: 1 or 2",
  },
  fewshot: trainingShots("winogrande", true),
  metrics: ["acc"],
  parseDoc(fields) {
    const sentence = fields.string("sentence");
    const blank = sentence.indexOf("_");
    if (blank < 0) fields.fail('field "sentence" has no "_" for the blank');
    const answer = fields.string("answer");
    const gold = answers.indexOf(answer);
    if (gold < 0) fields.fail(`field "answer" is ${JSON.stringify(answer)}, 1 or 2 is wanted`);
    const rest = trim(sentence.slice(blank + 1));
    const options = [fields.string("option1"), fields.string("option2")];
    const contexts = options.map((option) => sentence.slice(0, blank) + option);
    return {
      requests: contexts.map((context) => {
        return { kind: "loglikelihood", context, continuation: targetDelimiter + rest };
      }),
      target: rest,
      gold,
      // An example whose blank ends the sentence has no answer to divide from the question.
      shot: () => (contexts[gold] ?? "") + (rest === "" ? "" : targetDelimiter + rest + fewshotDelimiter),
      score(results) {
        const right = argmax(results.map((result) => result.logLikelihood)) === gold;
        return { acc: { value: right ? 1 : 0, weight: 1 } };
      },
    };
  },
};

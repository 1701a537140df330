/**
 * LAMBADA, the variant OpenAI made for GPT-2: the last word of a passage from the rest of it. The text is cut at
 * single spaces only; line breaks and doubled spaces stay as they are. Source: lm_eval/tasks/lambada.
 */
import type { Task } from "../task.ts";
import { fewshotDelimiter, targetDelimiter } from "../task.ts";

export const lambadaOpenai: Task = {
  name: "lambada_openai",
  version: "1.0",
  dataset: {
    repository: "EleutherAI/lambada_openai",
    config: "default",
    split: "test",
    numDocs: 5153,
    fileNames: ["lambada_test.jsonl", "lambada_openai.jsonl", "test.jsonl"],
    fields: "text: string",
  },
  fewshot: { from: "docs" },
  metrics: ["perplexity", "acc"],
  parseDoc(fields) {
    const words = fields.string("text").split(" ");
    const continuation = ` ${words.pop() ?? ""}`;
    const context = words.join(" ");
    return {
      requests: [{ kind: "loglikelihood", context, continuation }],
      target: continuation,
      gold: null,
      // Two spaces before the last word: the harness puts its own before one that has its own.
      shot: () => context + targetDelimiter + continuation + fewshotDelimiter,
      score([result]) {
        return {
          perplexity: { value: result?.logLikelihood ?? Number.NaN, weight: 1 },
          acc: { value: result?.isGreedy ? 1 : 0, weight: 1 },
        };
      },
    };
  },
};

/**
 * HellaSwag: which of four endings continues a description. Half of the texts come from WikiHow and carry marks
 * in brackets, which are taken out of context and endings. The validation split, for the test split has no
 * labels. Source: lm_eval/tasks/hellaswag.
 */
import type { StrictObject } from "../../checkpoint/strictJson.ts";
import { capitalize, trim } from "../pythonText.ts";
import type { Task } from "../task.ts";
import { DocFields, multipleChoice, trainingShots } from "../task.ts";

const numEndings = 4;

/**
 * Takes out every `[...]` within one line, as the pattern `\[.*?\]` of Python does, but in one pass: a search
 * that starts anew at each bracket would take quadratic time for a text of brackets that never close.
 */
function dropBrackets(text: string): string {
  let kept = "";
  let from = 0;
  let close = -1;
  let lineEnd = -1;
  for (let open = text.indexOf("["); open >= 0; open = text.indexOf("[", Math.max(open + 1, from))) {
    if (close < open) close = text.indexOf("]", open);
    if (close < 0) break;
    if (lineEnd < open) lineEnd = indexOrEnd(text, "\n", open);
    // What opens before the end of this line closes after it, like all that opens between the two.
    if (lineEnd < close) open = lineEnd;
    else {
      kept += text.slice(from, open);
      from = close + 1;
    }
  }
  return kept + text.slice(from);
}

function indexOrEnd(text: string, wanted: string, from: number): number {
  const index = text.indexOf(wanted, from);
  return index < 0 ? text.length : index;
}

/** @returns the text without WikiHow's marks. */
function clean(text: string): string {
  return dropBrackets(trim(text).replaceAll(" [title]", ". ")).replaceAll("  ", " ");
}

interface Reading {
  readonly query: string;
  readonly choices: readonly string[];
  readonly gold: number;
}

function read(fields: DocFields): Reading {
  const context = `${fields.string("ctx_a")} ${capitalize(fields.string("ctx_b"))}`;
  return {
    query: clean(`${fields.string("activity_label")}: ${context}`),
    choices: fields.strings("endings", numEndings, numEndings).map(clean),
    gold: fields.digit("label", numEndings),
  };
}

export const hellaswag: Task = {
  name: "hellaswag",
  version: "1.0",
  dataset: {
    repository: "Rowan/hellaswag",
    config: null,
    split: "validation",
    numDocs: 10042,
    fileNames: ["validation.jsonl", "hellaswag.jsonl"],
    fields: "activity_label, ctx_a, ctx_b: strings, endings: string[4], label: 0 to 3, as a string or a number",
  },
  fewshot: trainingShots("hellaswag", true),
  metrics: ["acc", "acc_norm"],
  parseDoc(fields) {
    const { query, choices, gold } = read(fields);
    return multipleChoice(query, choices, gold);
  },
  processDoc(line): StrictObject {
    const { query, choices, gold } = read(new DocFields(line, "hellaswag"));
    return new Map([...line, ["query", query], ["choices", [...choices]], ["gold", gold]]);
  },
};

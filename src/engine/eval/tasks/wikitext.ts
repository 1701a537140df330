/**
 * WikiText-2, raw, by page: the likelihood of each page after its tokenizer marks are taken out, measured per
 * word and per byte of the page as it was before. Words are the pieces between runs of white space, empty ones
 * at the ends included. Source: lm_eval/tasks/wikitext.
 */
import { splitAtSpaces, trim } from "../pythonText.ts";
import type { Task } from "../task.ts";

type Rule = (text: string) => string;

// Replacer functions throughout: a `$` in the text must not be special.
const literal =
  (from: string, to: string): Rule =>
  (text) =>
    text.replaceAll(from, () => to);

/**
 * Takes the white space off the inside of a pair of marks: `\(\s*([^)]*?)\s*\)` to `(\1)`. In one pass, for the
 * pattern itself takes cubic time on a mark, white space, and no second mark.
 */
function unpad(open: string, close: string): Rule {
  return (text) => {
    let unpadded = "";
    let from = 0;
    for (;;) {
      const first = text.indexOf(open, from);
      const last = first < 0 ? -1 : text.indexOf(close, first + 1);
      if (last < 0) return unpadded + text.slice(from);
      unpadded += text.slice(from, first) + open + trim(text.slice(first + 1, last)) + close;
      from = last + 1;
    }
  };
}

/** In this order. The second is what the harness does: its pattern holds slashes, so it matches next to nothing. */
const rules: readonly Rule[] = [
  literal("s '", "s'"),
  (text) => text.replace(/\/' [0-9]\//g, () => "/'[0-9]/"),
  literal(" @-@ ", "-"),
  literal(" @,@ ", ","),
  literal(" @.@ ", "."),
  literal(" : ", ": "),
  literal(" ; ", "; "),
  literal(" . ", ". "),
  literal(" ! ", "! "),
  literal(" ? ", "? "),
  literal(" , ", ", "),
  unpad("(", ")"),
  unpad("[", "]"),
  unpad("{", "}"),
  unpad('"', '"'),
  unpad("'", "'"),
  literal("= = = =", "===="),
  literal("= = =", "==="),
  literal("= =", "=="),
  literal(" \u00b0 ", "\u00b0"),
  literal(" \n", "\n"),
  literal("\n ", "\n"),
  literal(" N ", " 1 "),
  literal(" 's", "'s"),
];

/** @returns the page as text, without the marks of the tokenizer that WikiText was made with. */
export function detokenizeWikitext(page: string): string {
  return rules.reduce((text, rule) => rule(text), page);
}

export const wikitext: Task = {
  name: "wikitext",
  version: "2.0",
  dataset: {
    repository: "EleutherAI/wikitext_document_level",
    config: "wikitext-2-raw-v1",
    split: "test",
    numDocs: 62,
    fileNames: ["test.pages.jsonl", "wikitext.jsonl", "test.jsonl"],
    fields: "page: string",
  },
  fewshot: { from: "none" },
  metrics: ["word_perplexity", "byte_perplexity", "bits_per_byte"],
  parseDoc(fields) {
    const page = fields.string("page");
    const text = detokenizeWikitext(page);
    const words = splitAtSpaces(page).length;
    const bytes = new TextEncoder().encode(page).length;
    return {
      requests: [{ kind: "rolling", text }],
      target: text,
      gold: null,
      shot: () => "",
      score([result]) {
        const value = result?.logLikelihood ?? Number.NaN;
        return {
          word_perplexity: { value, weight: words },
          byte_perplexity: { value, weight: bytes },
          bits_per_byte: { value, weight: bytes },
        };
      },
    };
  },
};

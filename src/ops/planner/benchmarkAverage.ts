/**
 * How the paper makes one number of several benchmarks: the plain mean of accuracies, each by the metric that the
 * published columns are reproduced with (LAMBADA and WinoGrande `acc`, the others `acc_norm`, BoolQ `acc`). WikiText
 * is a perplexity and never part of it. The seven are the paper's; Table 6 (7B) adds three, Table 7 (Samba) leaves
 * out WinoGrande. Source: arXiv 2405.15319, figure 3, Tables 2, 3, 6 and 7.
 */

/** Task -> the metric by which the paper reports it. */
export const reportedMetrics: Readonly<Record<string, string>> = {
  lambada_openai: "acc",
  arc_challenge: "acc_norm",
  arc_easy: "acc_norm",
  logiqa: "acc_norm",
  piqa: "acc_norm",
  sciq: "acc_norm",
  winogrande: "acc",
  boolq: "acc",
  hellaswag: "acc_norm",
  openbookqa: "acc_norm",
  wikitext: "word_perplexity",
};

const six = ["lambada_openai", "arc_challenge", "arc_easy", "logiqa", "piqa", "sciq"];
const seven = [...six, "winogrande"];

/** What an average runs over, by name. */
export const averageSets = {
  six,
  seven,
  ten: [...seven, "boolq", "hellaswag", "openbookqa"],
} as const satisfies Record<string, readonly string[]>;

export type AverageSet = keyof typeof averageSets;

/**
 * @param scores task -> accuracy, in any one unit
 * @returns their mean over the set, in that unit; null unless every task of the set has a finite score
 */
export function benchmarkAverage(
  scores: Readonly<Record<string, number | undefined>>,
  set: AverageSet = "seven",
): number | null {
  const values = averageSets[set].map((task) => scores[task]);
  if (!values.every((value): value is number => value !== undefined && Number.isFinite(value))) return null;
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}

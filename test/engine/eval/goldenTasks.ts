/** The benchmark files of the shared data and what lm_eval 0.4.13 itself made of them. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { tasks } from "../../../src/engine/eval/index.ts";
import { sharedData } from "../../helpers/shared.ts";

/** Task -> its file below the benchmarks folder. */
export const benchmarkFiles: Readonly<Record<string, string>> = {
  arc_challenge: "arc_challenge/test.jsonl",
  arc_easy: "arc_easy/test.jsonl",
  lambada_openai: "lambada_openai/lambada_test.jsonl",
  logiqa: "logiqa/test.jsonl",
  piqa: "piqa/validation.jsonl",
  sciq: "sciq/test.jsonl",
  wikitext: "wikitext/test.pages.jsonl",
  winogrande: "winogrande/validation.jsonl",
};

/** The tasks whose docs are in the shared data. */
export const goldenTasks = tasks.filter(({ name }) => name in benchmarkFiles);

export const benchmarks = sharedData("benchmarks");
export const harnessRuns = sharedData("golden", "lm-eval");
export const harnessSamples = sharedData("golden", "hf", "lm_eval");

export function readBenchmark(file: string): string {
  return readFileSync(join(benchmarks ?? "", file), "utf8");
}

export interface HarnessSample {
  doc_id: number;
  target: number | string | null;
  /** [log-likelihood, is greedy] for each request; plain numbers for rolling ones. */
  resps: ([number, number] | number)[];
  acc?: number;
  acc_norm?: number;
}

export function readHarnessRun(
  profile: "bos" | "nobos",
  task: string,
): { samples: HarnessSample[]; results: Record<string, number | string> } {
  const folder = join(harnessRuns ?? "", `stories260K-${profile}`);
  const lines = readFileSync(join(folder, `${task}.jsonl`), "utf8")
    .trim()
    .split("\n");
  const { results } = JSON.parse(readFileSync(join(folder, "results.json"), "utf8")) as {
    results: Record<string, Record<string, number | string>>;
  };
  return { samples: lines.map((line) => JSON.parse(line) as HarnessSample), results: results[task] ?? {} };
}

export interface WikitextGolden {
  max_length: number;
  results: Record<string, number | string>;
  first_windows: { ctx: number[]; cont: number[] }[];
  n_windows_total: number;
  scored_tokens_total: number;
  samples: { ll: number; words: number; bytes: number; doc_hash: string; target_hash: string; prompt_hash: string }[];
}

export function readWikitextGolden(profile: "no-bos" | "tokenizer-default"): WikitextGolden {
  return JSON.parse(
    readFileSync(join(harnessSamples ?? "", `stories260K.${profile}.wikitext.json`), "utf8"),
  ) as WikitextGolden;
}

/** Task -> the (context, continuation) pairs of its first three docs. */
export function readFirstPrompts(): Map<string, [string, string][][]> {
  const prompts = new Map<string, [string, string][][]>();
  let docs: [string, string][][] = [];
  let pairs: [string, string][] | null = null;
  for (const line of readFileSync(join(harnessSamples ?? "", "FIRST3.md"), "utf8").split("\n")) {
    if (line.startsWith("## ")) {
      docs = [];
      prompts.set(line.slice(3).trim(), docs);
    } else if (line === "```json") {
      pairs = [];
      docs.push(pairs);
    } else if (line.startsWith("```")) pairs = null;
    else if (pairs && line.startsWith("[")) {
      const end = line.lastIndexOf('"]') + 2;
      pairs.push(JSON.parse(line.slice(0, end)) as [string, string]);
    }
  }
  return prompts;
}

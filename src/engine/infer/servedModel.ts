/**
 * A checkpoint held in memory by a compute process, ready to generate and to score. It speaks token ids
 * only; text is the business of whoever holds the tokenizer.
 */

import type { StepStats } from "./batcher.ts";

/** One position's distribution, as the completions API reports it. */
export interface TokenLogprobs {
  readonly token: number;
  /** ln p(token), float32 arithmetic. */
  readonly logprob: number;
  /** The `top` most probable ids with their logprobs, most probable first. */
  readonly top: readonly (readonly [id: number, logprob: number])[];
}

export interface GenerateRequest {
  readonly promptIds: readonly number[];
  readonly maxTokens: number;
  /** 0 = greedy: the first id with the highest logit. */
  readonly temperature: number;
  /** Nucleus sampling: the smallest set of most probable ids whose mass reaches it; 1 = all. */
  readonly topP: number;
  readonly seed: number;
  /** Ends generation; not part of the output. */
  readonly stopIds: readonly number[];
  /** Top alternatives to report for each token; null for no logprobs at all. */
  readonly logprobs: number | null;
  /** Report the prompt's own logprobs too. */
  readonly echo: boolean;
  /** Nobody reads tokens as they come: after the first they may arrive many at a time. */
  readonly gather?: boolean;
}

export type GenerateEvent =
  /** Once, first, when the cache held so much of the prompt's beginning, 1 or more, that was not computed again. */
  | { readonly type: "cached"; readonly tokens: number }
  /** Once, before any token, when `echo` and `logprobs` are set: entry i is for prompt token i; entry 0 is null. */
  | { readonly type: "prompt"; readonly logprobs: readonly (TokenLogprobs | null)[] }
  | { readonly type: "token"; readonly id: number; readonly logprobs: TokenLogprobs | null }
  | {
      readonly type: "end";
      readonly reason: "stop" | "length";
      /** The id of `stopIds` that ended it, computed but not part of the output; null for other ends. */
      readonly stopToken: { readonly id: number; readonly logprobs: TokenLogprobs | null } | null;
    };

/** ln p of each continuation token given all before it, and whether each was the argmax. */
export interface ScoreRequest {
  /** Context followed by continuation. */
  readonly ids: readonly number[];
  /** Index of the first continuation token in `ids`; at least 1. */
  readonly start: number;
}

export interface ScoreResult {
  /** Sum of the continuation's log-probabilities. */
  readonly logLikelihood: number;
  readonly isGreedy: boolean;
}

export interface ServedModel {
  /** Longest context in tokens. */
  readonly maxLength: number;
  readonly vocabSize: number;
  readonly memoryBytes: number;
  /** Whether requests at work with one prompt hold its pages in common (`positions.ts`). */
  readonly sharesPages: boolean;
  generate(request: GenerateRequest, signal: AbortSignal): AsyncIterable<GenerateEvent>;
  /** The result depends neither on which requests are scored together nor on what else is at work. */
  score(requests: readonly ScoreRequest[], signal: AbortSignal): Promise<ScoreResult[]>;
  /** The steps made since it was last asked, for metrics; a bounded number of them. */
  takeSteps?(): readonly StepStats[];
  close(): void;
}

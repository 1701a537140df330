/**
 * Generation on token ids: what of the prompt the cache does not hold yet is computed into it, in steps of bounded
 * size, then one token at a time. It can report the log-probabilities of the prompt itself (`echo`), which is how
 * evaluation harnesses score through a completions API.
 *
 * Length. n prompt tokens and m new ones need n + m - 1 inputs, so m is cut to maxLength - n + 1 and the text
 * ends with reason `length`. One prompt may be longer than the context: with `echo`, maxLength + 1 tokens can all
 * be scored from maxLength inputs (a full rolling window of lm-evaluation-harness); the one new token that is
 * then asked for is taken from the last maxLength tokens.
 */
import { CodedError } from "../../ops/errors.ts";
import { seededStream } from "../../ops/rng.ts";
import type { PromptDecoder, Sequence } from "./decoder.ts";
import { maxStepTokens, steps, stepTokensWithLogits } from "./decoder.ts";
import type { LogitRow } from "./logitRow.ts";
import { tokenLogprobs } from "./logprobs.ts";
import { isScored, positionsWanted } from "./positions.ts";
import { sample } from "./sample.ts";
import type { GenerateEvent, GenerateRequest, TokenLogprobs } from "./servedModel.ts";

/**
 * @returns `cached` and `prompt` (where there is something to tell), then `token`s, then one `end`
 * @throws invalid_request when a value is out of range; cancelled when the signal aborts; diverged
 */
export async function* generate(
  decoder: PromptDecoder,
  request: GenerateRequest,
  signal: AbortSignal,
): AsyncGenerator<GenerateEvent> {
  checkGenerateRequest(decoder, request);
  const length = request.promptIds.length;
  const newTokens = Math.min(request.maxTokens, Math.max(1, decoder.maxLength - length + 1));
  const withPrompt = isScored(request);
  if (newTokens === 0 && !withPrompt) return yield { type: "end", reason: "length", stopToken: null };
  const capacity = positionsWanted(request, decoder.maxLength);
  let sequence = await decoder.open({ ids: promptOf(decoder, request), capacity, isScored: withPrompt }, signal);
  try {
    if (sequence.length > 0) yield { type: "cached", tokens: sequence.length };
    let next: LogitRow | null = null;
    if (withPrompt) {
      const scored = await scorePrompt(decoder, sequence, request, newTokens > 0, signal);
      yield { type: "prompt", logprobs: scored.entries };
      next = scored.next;
    }
    if (newTokens === 0) return yield { type: "end", reason: "length", stopToken: null };
    if (next === null) {
      const ids = lastOf(request.promptIds, decoder);
      if (withPrompt) {
        // What comes next does not follow what was scored.
        sequence.close();
        sequence = await decoder.open({ ids, capacity, isScored: false }, signal);
      }
      next = await prefill(sequence, ids.slice(sequence.length), signal);
    }
    yield* decode(sequence, request, newTokens, next, signal);
  } finally {
    sequence.close();
  }
}

/** @returns what is read first. */
function promptOf(decoder: PromptDecoder, request: GenerateRequest): readonly number[] {
  const { promptIds } = request;
  return isScored(request) ? promptIds.slice(0, decoder.maxLength) : lastOf(promptIds, decoder);
}

/** @returns what of a prompt the context has room for. */
function lastOf(ids: readonly number[], { maxLength }: PromptDecoder): readonly number[] {
  return ids.slice(-maxLength);
}

async function* decode(
  sequence: Sequence,
  request: GenerateRequest,
  newTokens: number,
  first: LogitRow,
  signal: AbortSignal,
): AsyncGenerator<GenerateEvent> {
  const { uniform } = seededStream(request.seed, "sample");
  const stopIds = new Set(request.stopIds);
  let next = first;
  for (let made = 1; ; made++) {
    const id = sample(next, request, uniform);
    const logprobs = request.logprobs === null ? null : tokenLogprobs(next, id, request.logprobs);
    if (stopIds.has(id)) return yield { type: "end", reason: "stop", stopToken: { id, logprobs } };
    yield { type: "token", id, logprobs };
    if (made === newTokens) return yield { type: "end", reason: "length", stopToken: null };
    throwIfCancelled(signal);
    next = (await sequence.append([id], 1))[0]!;
  }
}

/** Computes `ids`; @returns the logits of what follows the last. */
async function prefill(sequence: Sequence, ids: readonly number[], signal: AbortSignal): Promise<LogitRow> {
  let next: LogitRow | undefined;
  for (const { start, part } of steps(ids, maxStepTokens)) {
    throwIfCancelled(signal);
    [next] = await sequence.append(part, start + part.length === ids.length ? 1 : 0);
  }
  return next!;
}

/**
 * Log-probabilities of every prompt token but the first, which has nothing before it.
 * @returns the entries, and the logits of what follows the prompt where the context had room for all of it
 */
async function scorePrompt(
  decoder: PromptDecoder,
  sequence: Sequence,
  request: GenerateRequest,
  wantNext: boolean,
  signal: AbortSignal,
): Promise<{ entries: (TokenLogprobs | null)[]; next: LogitRow | null }> {
  const ids = request.promptIds;
  // The last token's own logits are needed only when something is generated after it.
  const inputs = ids.slice(0, Math.min(decoder.maxLength, wantNext ? ids.length : ids.length - 1));
  const entries: (TokenLogprobs | null)[] = [null];
  let next: LogitRow | null = null;
  for (const { start, part } of steps(inputs, stepTokensWithLogits(decoder.vocabSize))) {
    throwIfCancelled(signal);
    const rows = await sequence.append(part, part.length);
    for (const [i, row] of rows.entries()) {
      const target = ids[start + i + 1];
      if (target === undefined) next = row.copy();
      else entries.push(tokenLogprobs(row, target, request.logprobs ?? 0));
    }
  }
  return { entries, next };
}

/** @throws cancelled */
export function throwIfCancelled(signal: AbortSignal): void {
  if (signal.aborted) throw new CodedError("cancelled", "the request was cancelled");
}

/** @throws invalid_request */
export function checkGenerateRequest(limits: { maxLength: number; vocabSize: number }, request: GenerateRequest): void {
  const { promptIds, maxTokens, temperature, topP, seed, logprobs } = request;
  const longest = request.echo ? limits.maxLength + 1 : limits.maxLength;
  if (promptIds.length === 0) throw invalid("the prompt has no tokens; at least 1 is needed");
  if (promptIds.length > longest) {
    throw invalid(`the prompt has ${promptIds.length} tokens; the model's context takes at most ${longest}`);
  }
  checkIds(promptIds, limits.vocabSize);
  if (!Number.isSafeInteger(maxTokens) || maxTokens < 0) throw invalid(`maxTokens is ${maxTokens}; wanted 0 or more`);
  if (!(temperature >= 0 && temperature < Infinity)) throw invalid(`temperature is ${temperature}; wanted 0 or more`);
  if (!(topP > 0 && topP <= 1)) throw invalid(`topP is ${topP}; wanted more than 0 and at most 1`);
  if (!Number.isSafeInteger(seed) || seed < 0) throw invalid(`seed is ${seed}; wanted an integer of 0 to 2^53 - 1`);
  if (logprobs !== null && !(Number.isSafeInteger(logprobs) && logprobs >= 0 && logprobs <= limits.vocabSize)) {
    throw invalid(`logprobs is ${logprobs}; wanted 0 to ${limits.vocabSize}`);
  }
}

/** @throws invalid_request naming the first id that is not in the vocabulary */
export function checkIds(ids: readonly number[], vocabSize: number): void {
  for (let i = 0; i < ids.length; i++) {
    const id = ids[i]!;
    if (!Number.isSafeInteger(id) || id < 0 || id >= vocabSize) {
      throw invalid(`token ${i} is ${id}; ids of this model are 0 to ${vocabSize - 1}`);
    }
  }
}

function invalid(message: string): CodedError {
  return new CodedError("invalid_request", message);
}

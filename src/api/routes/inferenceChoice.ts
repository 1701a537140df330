/**
 * One choice of a completion: what the model says about tokens becomes text, log-probabilities and a reason to
 * end. Text and the entries of its tokens come out together: an entry is given once its token's text is certain,
 * and tokens behind a stop string are left out. Without a tokenizer the text stays empty and all else is the same.
 */
import type { GenerateEvent, TokenLogprobs } from "../../engine/infer/servedModel.ts";
import { createDetokenizer } from "../../engine/tokenizer/detokenizer.ts";
import type { Tokenizer } from "../../engine/tokenizer/tokenizer.ts";
import type { LogprobEntry } from "./inferenceLogprobs.ts";
import { logprobEntry } from "./inferenceLogprobs.ts";
import type { Prompt } from "./inferencePrompt.ts";
import { codePoints, createTextGate } from "./inferenceText.ts";

/** What became known of a choice at once. */
export interface ChoiceDelta {
  readonly text: string;
  readonly entries: readonly LogprobEntry[];
  /** Null until the choice ends. */
  readonly finish: "stop" | "length" | null;
  /** Tokens computed for it. */
  readonly tokens: number;
  /** Tokens of its prompt that were computed before; told at most once, by a delta that says nothing else. */
  readonly cached?: number;
}

export interface ChoiceOptions {
  readonly tokenizer: Tokenizer | null;
  readonly prompt: Prompt;
  readonly stops: readonly string[];
  readonly echo: boolean;
  readonly withLogprobs: boolean;
}

/**
 * @returns deltas, of which the last has a `finish`. Leaving the model's
 *   events early (at a stop string) cancels what is still being generated.
 */
export async function* readChoice(
  options: ChoiceOptions,
  events: AsyncIterable<GenerateEvent>,
): AsyncGenerator<ChoiceDelta> {
  const { tokenizer, prompt, withLogprobs } = options;
  const detokenizer =
    tokenizer === null ? null : createDetokenizer(tokenizer, { skipSpecialTokens: true, promptIds: prompt.ids });
  const gate = createTextGate(tokenizer === null ? [] : options.stops);
  const echoed = options.echo ? echoText(options) : "";
  const base = codePoints(echoed);
  let waiting: LogprobEntry[] = [];
  let written = 0;

  function note(id: number, logprobs: TokenLogprobs | null): void {
    if (withLogprobs) waiting.push(logprobEntry(tokenizer, id, logprobs, base + written));
  }

  /** Entries whose text has come out; all of them where nothing can be held back. */
  function settled(): LogprobEntry[] {
    const limit = options.stops.length === 0 ? Infinity : base + gate.length;
    const out = waiting.filter((entry) => entry.offset < limit);
    waiting = waiting.filter((entry) => entry.offset >= limit);
    return out;
  }

  if (options.echo && !withLogprobs) yield { text: echoed, entries: [], finish: null, tokens: 0 };
  for await (const event of events) {
    if (event.type === "cached") {
      yield { text: "", entries: [], finish: null, tokens: 0, cached: event.tokens };
    } else if (event.type === "prompt") {
      yield { text: echoed, entries: promptEntries(options, event.logprobs), finish: null, tokens: 0 };
    } else if (event.type === "token") {
      note(event.id, event.logprobs);
      const piece = detokenizer?.push(event.id) ?? "";
      written += codePoints(piece);
      const text = gate.push(piece);
      const entries = settled();
      if (gate.stopped) return yield { text, entries, finish: "stop", tokens: 1 };
      yield { text, entries, finish: null, tokens: 1 };
    } else {
      const { stopToken } = event;
      if (stopToken !== null) note(stopToken.id, stopToken.logprobs);
      const text = gate.push(detokenizer?.end() ?? "") + gate.end();
      const finish = gate.stopped ? "stop" : event.reason;
      const entries = gate.stopped ? settled() : waiting;
      return yield { text, entries, finish, tokens: stopToken === null ? 0 : 1 };
    }
  }
}

/** The prompt as `echo` gives it back: verbatim where it was a text. */
function echoText({ tokenizer, prompt }: ChoiceOptions): string {
  if (prompt.text !== null) return prompt.text;
  return tokenizer?.decode(prompt.ids, { skipSpecialTokens: true }) ?? "";
}

/** The prompt's own entries. A tokenizer that changes the text (normalises it) may shift offsets; none is beyond it. */
function promptEntries(options: ChoiceOptions, logprobs: readonly (TokenLogprobs | null)[]): LogprobEntry[] {
  const { tokenizer, prompt } = options;
  const detokenizer = tokenizer === null ? null : createDetokenizer(tokenizer, { skipSpecialTokens: true });
  const length = codePoints(echoText(options));
  let written = 0;
  return prompt.ids.map((id, index) => {
    const entry = logprobEntry(tokenizer, id, logprobs[index] ?? null, Math.min(written, length));
    written += codePoints(detokenizer?.push(id) ?? "");
    return entry;
  });
}

/**
 * How a text longer than the model's context is scored: windows whose scored tokens do not overlap and cover
 * the text once, each with as much context as fits and at least one token. Only the last, short window sees
 * more than one token of context. Source: lm_eval/utils.py, `get_rolling_token_windows` with `context_len=1`
 * and `make_disjoint_window`.
 */

export interface Window {
  /** Tokens given, not scored; at least one. */
  readonly context: readonly number[];
  /** Tokens scored. */
  readonly continuation: readonly number[];
}

/**
 * @param tokens the text
 * @param prefix the token before the first one
 * @param maxLength tokens a model sees at once, at least 1
 * @returns the windows in order; none for an empty text
 */
export function rollingWindows(tokens: readonly number[], prefix: number, maxLength: number): Window[] {
  const windows: Window[] = [];
  for (let scored = 0; scored < tokens.length;) {
    const end = Math.min(scored + maxLength, tokens.length);
    // The last maxLength + 1 tokens up to `end`, all of which but the last are the model's input.
    const from = end - maxLength - 1;
    const context = scored === 0 ? [prefix] : tokens.slice(Math.max(from, 0), scored);
    if (scored > 0 && from < 0) throw new Error("invariant: only the first window is short of context");
    windows.push({ context, continuation: tokens.slice(scored, end) });
    scored = end;
  }
  return windows;
}

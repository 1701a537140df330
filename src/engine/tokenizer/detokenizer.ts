/**
 * Text as it is generated: takes ids one by one and gives out only text that no later token can change. Ids are
 * held back while what they decode to ends in U+FFFD, for then the next token may complete the character. Each
 * such segment is decoded alone, behind one neutral token, so that the cost of a token does not grow with the
 * text and the space that a decoder takes off the beginning of a text is kept in the middle of it.
 *
 * The pieces put together are `decode` of all ids, with one exception on purpose: where a run of byte tokens
 * begins with whole characters and then breaks off, those characters stay, and only the broken rest becomes
 * U+FFFD; `decode` would make U+FFFD of the whole run.
 */
import type { Tokenizer } from "./tokenizer.ts";

/** Ids held back at most; a U+FFFD that 16 tokens did not complete is the text itself. */
const maxHeldTokens = 16;

export interface IncrementalDetokenizer {
  /** @returns the text that became certain with this id; often the token's own, sometimes empty. */
  push(id: number): string;
  /** @returns what was still held back; call it once, at the end. */
  end(): string;
}

export interface DetokenizerOptions {
  /** Leave special tokens out of the text. */
  readonly skipSpecialTokens: boolean;
  /** Ids that came before, which are context and not output: the prompt of a completion. */
  readonly promptIds?: readonly number[];
}

/** Letters that hardly any vocabulary joins to their neighbours: most tokenizers give some of them alone. */
const looseLetters = "q\nZx,J\nQ";

/** A token that is one ASCII letter wherever it stands; null where the vocabulary has none. */
function findNeutralToken(tokenizer: Tokenizer): number | null {
  const isLetter = (id: number): boolean => !tokenizer.isSpecial(id) && /^[A-Za-z]$/.test(tokenizer.tokenText(id));
  const quick = tokenizer.encode(looseLetters, { addSpecialTokens: false }).find(isLetter);
  if (quick !== undefined) return quick;
  for (let id = 0; id < tokenizer.vocabSize; id++) if (isLetter(id)) return id;
  return null;
}

export function createDetokenizer(tokenizer: Tokenizer, options: DetokenizerOptions): IncrementalDetokenizer {
  const { skipSpecialTokens } = options;
  const isShown = (id: number): boolean => !(skipSpecialTokens && tokenizer.isSpecial(id));
  const neutral = findNeutralToken(tokenizer);
  let isInText = (options.promptIds ?? []).some(isShown);
  let held: number[] = [];

  function decodeHeld(): string {
    if (!isInText || neutral === null) return tokenizer.decode(held, { skipSpecialTokens });
    return tokenizer.decode([neutral, ...held], { skipSpecialTokens }).slice(1);
  }

  function giveOut(text: string): string {
    isInText ||= held.some(isShown);
    held = [];
    return text;
  }

  return {
    push(id) {
      held.push(id);
      const text = decodeHeld();
      return text.endsWith("\uFFFD") && held.length < maxHeldTokens ? "" : giveOut(text);
    },
    end: () => (held.length === 0 ? "" : giveOut(decodeHeld())),
  };
}

/**
 * The tokenizers of checkpoints as the API uses them: whole texts and long lists of ids go to a process of
 * their own, bounded in number and time; the text of single tokens, while they are generated, is looked up here. Chat
 * templates, which are programs of strangers, have another process.
 */
import { loadTokenizerRef } from "../tokenizer/loadTokenizer.ts";
import type { ChatRendering } from "../tokenizer/chatTemplate.ts";
import type { Tokenizer } from "../tokenizer/tokenizer.ts";
import { BoundedProcess } from "./boundedProcess.ts";
import { createTokenizerCache } from "./tokenizerCache.ts";
import type { TokenizerSource } from "./tokenizerCache.ts";

export interface Tokenizers {
  /** For the text of tokens one by one. @throws tokenizer_invalid, checkpoint_missing_file */
  load(source: TokenizerSource): Promise<Tokenizer>;
  /** @returns the ids of each text. @throws tokenizer_invalid, timeout, too_many_requests */
  encode(source: TokenizerSource, texts: readonly string[], addSpecialTokens: boolean): Promise<number[][]>;
  /** @returns the text, special tokens included. @throws tokenizer_invalid, timeout, too_many_requests */
  decode(source: TokenizerSource, ids: readonly number[]): Promise<string>;
  /** @returns a conversation as text. @throws unprocessable, timeout, out_of_memory, too_many_requests */
  render(rendering: ChatRendering): Promise<string>;
  close(): Promise<void>;
}

export interface TokenizerTask {
  readonly source: TokenizerSource;
  readonly texts: readonly string[];
  readonly addSpecialTokens: boolean;
  readonly ids: readonly (readonly number[])[];
}

export interface TokenizerAnswer {
  readonly ids: number[][];
  readonly texts: string[];
}

export interface TokenizersOptions {
  /** For one request to the tokenizer. */
  readonly timeoutMs?: number;
  /** For one rendering of a template. */
  readonly renderTimeoutMs?: number;
}

const maxWaiting = 128;
/** The slowest tokenizer known here makes 55,000 tokens a second: 4 MiB of English in 20 s. */
const defaultTimeoutMs = 60_000;
/** Real templates take about a millisecond. */
const defaultRenderTimeoutMs = 5_000;
/** Four tokenizers of 128,000 tokens, and a long text. */
const tokenizerHeapMiB = 1024;
const templateHeapMiB = 128;

/** @returns tokenizers; processes are started at the first need and do not keep this one alive. */
export function createTokenizers(options: TokenizersOptions = {}): Tokenizers {
  const cache = createTokenizerCache(loadTokenizerRef);
  const tokenizer = new BoundedProcess<TokenizerTask, TokenizerAnswer>({
    entry: new URL("./tokenizerProcess.ts", import.meta.url),
    what: "the tokenizer",
    maxWaiting,
    timeoutMs: options.timeoutMs ?? defaultTimeoutMs,
    heapMiB: tokenizerHeapMiB,
  });
  const template = new BoundedProcess<ChatRendering, string>({
    entry: new URL("./templateProcess.ts", import.meta.url),
    what: "the chat template",
    maxWaiting,
    timeoutMs: options.renderTimeoutMs ?? defaultRenderTimeoutMs,
    heapMiB: templateHeapMiB,
  });
  return {
    load: (source) => cache.get(source),
    async encode(source, texts, addSpecialTokens) {
      return (await tokenizer.ask({ source, texts, addSpecialTokens, ids: [] })).ids;
    },
    async decode(source, ids) {
      const { texts } = await tokenizer.ask({ source, texts: [], addSpecialTokens: false, ids: [ids] });
      return texts[0] ?? "";
    },
    render: (rendering) => template.ask(rendering),
    async close() {
      await Promise.all([tokenizer.close(), template.close()]);
    },
  };
}

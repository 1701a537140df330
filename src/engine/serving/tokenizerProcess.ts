/**
 * ENTRY of the tokenizer process: turns texts into ids and ids into texts, away from the server's event loop, for
 * a long text takes seconds and a hostile tokenizer.json may hold a regular expression that never ends. It keeps
 * the tokenizers used last; everything else it needs comes with each request.
 */
import { loadTokenizerRef } from "../tokenizer/loadTokenizer.ts";
import { serveTasks } from "./boundedProcess.ts";
import { createTokenizerCache } from "./tokenizerCache.ts";
import type { TokenizerAnswer, TokenizerTask } from "./tokenizers.ts";

const cache = createTokenizerCache(loadTokenizerRef);

serveTasks(async ({ source, texts, ids, addSpecialTokens }: TokenizerTask): Promise<TokenizerAnswer> => {
  const tokenizer = await cache.get(source);
  return {
    ids: texts.map((text) => tokenizer.encode(text, { addSpecialTokens })),
    texts: ids.map((list) => tokenizer.decode(list, { skipSpecialTokens: false })),
  };
});

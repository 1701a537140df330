/**
 * ENTRY of the tokenizer thread: turns texts into ids and ids into texts, away from the server's event loop, for
 * a long text takes seconds and a hostile tokenizer.json may hold a regular expression that never ends. It keeps
 * the tokenizers used last; everything else it needs comes with each request.
 */
import { parentPort } from "node:worker_threads";
import { invariant, toErrorRecord } from "../../ops/errors.ts";
import { loadTokenizerRef } from "../tokenizer/loadTokenizer.ts";
import { createTokenizerCache } from "./tokenizerCache.ts";
import type { ThreadAnswer, ThreadRequest } from "./tokenizers.ts";

invariant(parentPort !== null, "the tokenizer thread was started as a program");
const port = parentPort;
const cache = createTokenizerCache(loadTokenizerRef);

async function answer({ id, source, task }: ThreadRequest): Promise<ThreadAnswer> {
  try {
    const tokenizer = await cache.get(source);
    if (task.type === "decode") return { id, text: tokenizer.decode(task.ids, { skipSpecialTokens: false }) };
    const { addSpecialTokens } = task;
    return { id, ids: task.texts.map((text) => tokenizer.encode(text, { addSpecialTokens })) };
  } catch (error) {
    return { id, error: toErrorRecord(error) };
  }
}

port.on("message", (request: ThreadRequest) => void answer(request).then((reply) => port.postMessage(reply)));

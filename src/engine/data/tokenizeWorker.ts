/**
 * ENTRY of a worker thread that turns batches of text into token ids. It holds its own tokenizer; a batch in,
 * one typed array out, nothing kept between batches. Started by `tokenizePool.ts` alone.
 */
import { parentPort, workerData } from "node:worker_threads";
import { toErrorRecord } from "../../ops/errors.ts";
import type { BlobLocation, TokenizerRef } from "../../ops/manifest.ts";
import { loadTokenizerRef } from "../tokenizer/loadTokenizer.ts";
import type { TokenizeAnswer, TokenizeBatch } from "./tokenizePool.ts";
import { encodeBatch } from "./tokenizePool.ts";

const port = parentPort;
if (port) {
  const { ref, blobs } = workerData as { ref: TokenizerRef; blobs: Readonly<Record<string, BlobLocation>> };
  const tokenizer = loadTokenizerRef(ref, blobs);
  // A failure to load is answered to every batch; this keeps it from ending the process first.
  tokenizer.catch(() => undefined);
  port.on("message", (message: { id: number; batch: TokenizeBatch }) => {
    void (async () => {
      let answer: TokenizeAnswer;
      try {
        answer = { id: message.id, ids: encodeBatch(await tokenizer, message.batch) };
      } catch (error) {
        answer = { id: message.id, error: toErrorRecord(error) };
      }
      port.postMessage(answer, "ids" in answer ? [answer.ids.buffer] : []);
    })();
  });
}

/**
 * Chunks as server-sent events in OpenAI's manner: one `data:` line of JSON each, `data: [DONE]` at the end. The
 * first chunk is awaited before the answer begins, so that what is wrong until then has its HTTP status; an error
 * after it is sent as `data: {"error": ...}`, which OpenAI's clients raise, and the stream ends without `[DONE]`.
 */
import { publicError } from "../errors.ts";
import { eventStream } from "../sse.ts";
import type { ServerEvent } from "../sse.ts";
import { openAiError } from "./inferenceError.ts";

/**
 * @param chunks the chunks; returned early when the client leaves
 * @param leave called when the client leaves, to stop what the chunks wait for
 * @throws what the first chunk throws
 */
export async function streamChunks(
  chunks: AsyncGenerator<unknown>,
  leave: AbortController,
  signal: AbortSignal,
): Promise<Response> {
  const first = await chunks.next();
  return eventStream((gone) => {
    gone.addEventListener("abort", () => leave.abort(), { once: true });
    return asEvents(first, chunks);
  }, signal);
}

async function* asEvents(first: IteratorResult<unknown>, chunks: AsyncGenerator<unknown>): AsyncGenerator<ServerEvent> {
  try {
    for (let next = first; next.done !== true; next = await chunks.next()) yield { data: JSON.stringify(next.value) };
  } catch (thrown) {
    yield { data: JSON.stringify({ error: openAiError(publicError(thrown)) }) };
    return;
  } finally {
    await chunks.return(undefined);
  }
  yield { data: "[DONE]" };
}

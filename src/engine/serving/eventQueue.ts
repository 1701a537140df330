/**
 * A bounded queue from callbacks to one `for await` loop. It is how what a process says becomes an async
 * iterable: pushed by the channel, pulled by a request, ended or failed once.
 */
import { CodedError } from "../../ops/errors.ts";

export interface EventQueue<Item> extends AsyncIterable<Item> {
  push(item: Item): void;
  /** No more items; those pushed are still delivered. */
  end(): void;
  /** The loop throws `error` after the items pushed before it. Later calls change nothing. */
  fail(error: Error): void;
}

/**
 * @param maxItems unread items at most
 * @throws unavailable (from the loop) when its reader falls that far behind
 */
export function createEventQueue<Item>(maxItems: number): EventQueue<Item> {
  const items: Item[] = [];
  let ended = false;
  let failure: Error | null = null;
  let wake: (() => void) | null = null;

  function signal(): void {
    wake?.();
    wake = null;
  }

  function finish(error: Error | null): void {
    if (ended) return;
    ended = true;
    failure = error;
    signal();
  }

  async function* read(): AsyncGenerator<Item> {
    for (;;) {
      while (items.length > 0) yield items.shift()!;
      if (failure !== null) throw failure;
      if (ended) return;
      await new Promise<void>((resolve) => {
        wake = resolve;
      });
    }
  }

  return {
    push(item) {
      if (ended) return;
      if (items.length >= maxItems) {
        return finish(new CodedError("unavailable", `the reader fell ${maxItems} events behind and was dropped`));
      }
      items.push(item);
      signal();
    },
    end: () => finish(null),
    fail: (error) => finish(error),
    [Symbol.asyncIterator]: read,
  };
}

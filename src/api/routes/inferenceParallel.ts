/**
 * Several async generators as one, a few of them at a time: the choices of a request share their model's batch. What
 * comes first is given first. Leaving, or the failure of one, ends them all.
 */

/**
 * @param sources started in their order, at most `most` running
 * @param stop called before the generators are ended, to end what they wait for
 */
export async function* inParallel<Item>(
  sources: readonly (() => AsyncGenerator<Item>)[],
  most: number,
  stop: () => void,
): AsyncGenerator<Item> {
  const running = new Map<AsyncGenerator<Item>, Promise<Step<Item>>>();
  const advance = (source: AsyncGenerator<Item>): void => {
    const step = source.next().then((result) => ({ source, result }));
    // One that fails while another is looked at is looked at later, or not at all.
    step.catch(() => undefined);
    running.set(source, step);
  };
  let started = 0;
  try {
    for (;;) {
      while (running.size < most && started < sources.length) advance(sources[started++]!());
      if (running.size === 0) return;
      const { source, result } = await Promise.race(running.values());
      if (result.done === true) running.delete(source);
      else {
        advance(source);
        yield result.value;
      }
    }
  } finally {
    stop();
    await Promise.allSettled([...running.keys()].map((source) => source.return(undefined)));
  }
}

interface Step<Item> {
  readonly source: AsyncGenerator<Item>;
  readonly result: IteratorResult<Item>;
}

/**
 * Server-sent events (WHATWG HTML, section 9.2) out of any async stream. The consumer pulls: nothing is produced
 * ahead of a slow client, and one that takes nothing for a while is dropped. While the source is silent, comments
 * keep the connection alive. When the client leaves, the source is told by its signal and is returned.
 */

export interface ServerEvent {
  readonly id?: string;
  readonly event?: string;
  /** One line, or several. */
  readonly data: string;
}

export interface StreamOptions {
  /** Comment after so much silence of the source, ms. */
  readonly heartbeatMs?: number;
  /** A client that takes nothing for so long is dropped, ms. */
  readonly stalledMs?: number;
  /** Called once when the stream has ended in any way. */
  readonly onEnd?: () => void;
  readonly headers?: Readonly<Record<string, string>>;
}

const defaultHeartbeatMs = 15_000;
const defaultStalledMs = 60_000;
const heartbeat = ": still here\n\n";

/** @returns the event in its wire form. */
export function formatEvent({ id, event, data }: ServerEvent): string {
  const head = `${id === undefined ? "" : `id: ${id}\n`}${event === undefined ? "" : `event: ${event}\n`}`;
  return `${head}${data
    .split(/\r\n|\r|\n/)
    .map((line) => `data: ${line}\n`)
    .join("")}\n`;
}

/**
 * @param start makes the source; its signal is aborted when the client leaves
 * @param signal ends the stream early, e.g. because the server stops
 */
export function eventStream(
  start: (signal: AbortSignal) => AsyncIterable<ServerEvent>,
  signal: AbortSignal,
  options: StreamOptions = {},
): Response {
  const stream = new EventPump(start, signal, options);
  const type = { "Content-Type": "text/event-stream; charset=utf-8" };
  const unbuffered = { "Cache-Control": "no-store", "X-Accel-Buffering": "no" };
  return new Response(stream.readable(), { headers: { ...type, ...unbuffered, ...options.headers } });
}

class EventPump {
  readonly #source: AsyncIterator<ServerEvent>;
  readonly #gone = new AbortController();
  readonly #options: StreamOptions;
  readonly #encoder = new TextEncoder();
  /** The next event, asked for already: kept over heartbeats. */
  #next: Promise<IteratorResult<ServerEvent>> | null = null;
  #stalled: NodeJS.Timeout | undefined;
  #ended = false;

  constructor(start: (signal: AbortSignal) => AsyncIterable<ServerEvent>, signal: AbortSignal, options: StreamOptions) {
    this.#options = options;
    this.#source = start(AbortSignal.any([signal, this.#gone.signal]))[Symbol.asyncIterator]();
  }

  readable(): ReadableStream<Uint8Array> {
    return new ReadableStream<Uint8Array>(
      {
        pull: (controller) => this.#pull(controller),
        cancel: () => this.#end(),
      },
      { highWaterMark: 0 },
    );
  }

  async #pull(controller: ReadableStreamDefaultController<Uint8Array>): Promise<void> {
    clearTimeout(this.#stalled);
    this.#next ??= this.#source.next();
    const text = await this.#nextText(this.#next).catch((error: unknown) => {
      this.#end();
      throw error;
    });
    if (this.#ended) return;
    if (text === null) {
      this.#end();
      controller.close();
      return;
    }
    controller.enqueue(this.#encoder.encode(text));
    this.#stalled = setTimeout(() => this.#drop(controller), this.#options.stalledMs ?? defaultStalledMs);
    this.#stalled.unref();
  }

  /** @returns an event, a heartbeat, or null at the end. */
  async #nextText(next: Promise<IteratorResult<ServerEvent>>): Promise<string | null> {
    let timer: NodeJS.Timeout | undefined;
    const silence = new Promise<"silence">((resolve) => {
      timer = setTimeout(() => resolve("silence"), this.#options.heartbeatMs ?? defaultHeartbeatMs);
    });
    const first = await Promise.race([next, silence]).finally(() => clearTimeout(timer));
    if (first === "silence") return heartbeat;
    this.#next = null;
    return first.done === true ? null : formatEvent(first.value);
  }

  #drop(controller: ReadableStreamDefaultController<Uint8Array>): void {
    if (this.#ended) return;
    this.#end();
    controller.error(new Error("the client took nothing for too long"));
  }

  /** Frees everything, once. A source that waits is woken by its signal. */
  #end(): void {
    if (this.#ended) return;
    this.#ended = true;
    clearTimeout(this.#stalled);
    this.#gone.abort();
    this.#next?.catch(() => undefined);
    void this.#source.return?.().catch(() => undefined);
    this.#options.onEnd?.();
  }
}

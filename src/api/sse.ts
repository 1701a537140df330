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
  readonly #encoder = new TextEncoder();
  readonly #heartbeatMs: number;
  readonly #stalledMs: number;
  readonly #onEnd: (() => void) | undefined;
  /** The next event, asked for already: kept over heartbeats. */
  #next: Promise<IteratorResult<ServerEvent>> | null = null;
  /** Gives the client that waits for the source a heartbeat; null while it is the client that is waited for. */
  #beat: (() => void) | null = null;
  /** When that wait began, of either kind, ms. */
  #since = 0;
  /** One for all waits, which looks now and then what is due: one for each event would cost more than the event. */
  #timer: NodeJS.Timeout | undefined;
  #ended = false;

  constructor(start: (signal: AbortSignal) => AsyncIterable<ServerEvent>, signal: AbortSignal, options: StreamOptions) {
    this.#heartbeatMs = options.heartbeatMs ?? defaultHeartbeatMs;
    this.#stalledMs = options.stalledMs ?? defaultStalledMs;
    this.#onEnd = options.onEnd;
    this.#source = start(AbortSignal.any([signal, this.#gone.signal]))[Symbol.asyncIterator]();
  }

  readable(): ReadableStream<Uint8Array> {
    return new ReadableStream<Uint8Array>(
      {
        start: (controller) => this.#look(controller),
        pull: (controller) => this.#pull(controller),
        cancel: () => this.#end(),
      },
      { highWaterMark: 0 },
    );
  }

  async #pull(controller: ReadableStreamDefaultController<Uint8Array>): Promise<void> {
    this.#next ??= this.#source.next();
    this.#since = performance.now();
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
    this.#beat = null;
    this.#since = performance.now();
  }

  /** @returns an event, a heartbeat, or null at the end. */
  #nextText(next: Promise<IteratorResult<ServerEvent>>): Promise<string | null> {
    return new Promise((resolve, reject) => {
      this.#beat = () => resolve(heartbeat);
      next.then((item) => {
        // After a heartbeat the same event is waited for again: it is given to that wait.
        if (this.#next === next) this.#next = null;
        resolve(item.done === true ? null : formatEvent(item.value));
      }, reject);
    });
  }

  /** Does what is due, and looks again when something may be. */
  #look(controller: ReadableStreamDefaultController<Uint8Array>): void {
    const limitMs = this.#beat === null ? this.#stalledMs : this.#heartbeatMs;
    let leftMs = this.#since === 0 ? limitMs : this.#since + limitMs - performance.now();
    if (leftMs <= 0) {
      if (this.#beat === null) return this.#drop(controller);
      this.#beat();
      leftMs = this.#heartbeatMs;
    }
    // Who is waited for may change meanwhile, and with it what is due.
    this.#timer = setTimeout(() => this.#look(controller), Math.min(leftMs, this.#heartbeatMs, this.#stalledMs));
    this.#timer.unref();
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
    clearTimeout(this.#timer);
    this.#gone.abort();
    this.#next?.catch(() => undefined);
    void this.#source.return?.().catch(() => undefined);
    this.#onEnd?.();
  }
}

/**
 * The line in which requests wait for a place on a model: bounded, in order of arrival, left at once when the
 * request is given up or has waited too long. What belongs to a request that was let in before (its further choices)
 * waits in the same order, but neither counts nor is turned away: one request with many choices must not fill the line
 * for everybody. It knows nothing of models; the pool walks it.
 */
import { CodedError } from "../../ops/errors.ts";
import { givenUp } from "./givenUp.ts";

export interface Ticket<Wish, Place> {
  readonly wish: Wish;
  /** Serves the ticket; it has left the line. */
  serve(place: Place): void;
}

/** Seconds after which a client turned away is told to come again. */
const retryAfterSeconds = 1;

interface Waiting<Wish, Place> extends Ticket<Wish, Place> {
  /** Whether it belongs to work that was let in before. */
  readonly continued: boolean;
  leave(error: CodedError): void;
}

export class WaitingLine<Wish, Place> {
  readonly #tickets: Waiting<Wish, Place>[] = [];
  readonly #maxLength: number;
  readonly #timeoutMs: number;
  readonly #onLeave: () => void;

  /** @param onLeave called when somebody gave up, which may let those behind go on */
  constructor(options: { maxLength: number; timeoutMs: number; onLeave: () => void }) {
    this.#maxLength = options.maxLength;
    this.#timeoutMs = options.timeoutMs;
    this.#onLeave = options.onLeave;
  }

  /** Those that count, at most `maxLength`. */
  get length(): number {
    return this.#tickets.reduce((sum, { continued }) => sum + (continued ? 0 : 1), 0);
  }

  /** Tickets in order of arrival; they may be served while walking. */
  inOrder(): readonly Ticket<Wish, Place>[] {
    return [...this.#tickets];
  }

  /**
   * Joins the end of the line. @returns the place, once served
   * @param continued it belongs to work that was let in before; its caller has a bounded number of such tickets
   * @throws too_many_requests when the line is full or the wait was too long; cancelled when the signal aborts
   */
  async join(wish: Wish, signal: AbortSignal, continued: boolean): Promise<Place> {
    if (signal.aborted) throw givenUp(signal);
    if (!continued && this.length >= this.#maxLength) throw busy(`${this.length} requests wait already`);
    const outcome = Promise.withResolvers<Place>();
    const abort = (): void => ticket.leave(givenUp(signal));
    const late = (): void => ticket.leave(busy(`no place became free within ${this.#timeoutMs} ms`));
    const timer = setTimeout(late, this.#timeoutMs);
    const remove = (): void => {
      clearTimeout(timer);
      signal.removeEventListener("abort", abort);
      this.#tickets.splice(this.#tickets.indexOf(ticket), 1);
    };
    const ticket: Waiting<Wish, Place> = {
      wish,
      continued,
      serve(place) {
        remove();
        outcome.resolve(place);
      },
      leave: (error) => {
        remove();
        outcome.reject(error);
        this.#onLeave();
      },
    };
    signal.addEventListener("abort", abort, { once: true });
    this.#tickets.push(ticket);
    return outcome.promise;
  }

  /** Turns everybody away. */
  clear(error: CodedError): void {
    for (const ticket of [...this.#tickets]) ticket.leave(error);
  }
}

function busy(reason: string): CodedError {
  return new CodedError("too_many_requests", `the models are busy: ${reason}`, {
    details: { retry_after_seconds: retryAfterSeconds },
  });
}

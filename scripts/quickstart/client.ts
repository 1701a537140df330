/**
 * The smallest honest client of the service: JSON over fetch, errors with the problem's own words, and a
 * reader of server-sent events. The quickstart uses nothing else to talk to the server.
 */

/** No single answer of the quickstart takes longer; event streams are bounded by their job. */
const ANSWER_TIMEOUT_MS = 60_000;
const MAX_RECONNECTS = 20;

export interface Job {
  readonly id: string;
  readonly kind: string;
  readonly status: "queued" | "running" | "paused" | "succeeded" | "failed" | "cancelled";
  readonly progress: { fraction: number; tokens?: number | null; eta_seconds?: number | null; message?: string | null };
  readonly result: Record<string, unknown> | null;
  readonly error: { code: string; message: string } | null;
}

export interface JobEvent {
  readonly type: string;
  readonly data: Record<string, unknown>;
}

export class Client {
  readonly #base: string;

  constructor(base: string) {
    this.#base = base;
  }

  /** @throws Error with the problem's code and detail when the answer is not 2xx. */
  async call<Answer>(method: "GET" | "POST", path: string, body?: unknown): Promise<Answer> {
    const response = await fetch(this.#base + path, {
      method,
      ...(body === undefined ? {} : { body: JSON.stringify(body), headers: { "content-type": "application/json" } }),
      signal: AbortSignal.timeout(ANSWER_TIMEOUT_MS),
    });
    const text = await response.text();
    if (!response.ok) throw new Error(`${method} ${path}: ${response.status} ${text}`);
    return JSON.parse(text) as Answer;
  }

  /** Submits long work and follows its events to the end. @throws Error when it does not succeed. */
  async run(
    path: string,
    body: unknown,
    onEvent: (event: JobEvent, job: Job) => void = () => {},
  ): Promise<Record<string, unknown>> {
    const job = await this.call<Job>("POST", path, body);
    for await (const event of this.#events(job.id)) onEvent(event, job);
    const ended = await this.call<Job>("GET", `/v1/jobs/${job.id}`);
    if (ended.status !== "succeeded" || !ended.result) {
      throw new Error(
        `${job.kind} ${job.id} ${ended.status}: ${ended.error?.code ?? ""} ${ended.error?.message ?? ""}`,
      );
    }
    return { ...ended.result, job: job.id };
  }

  /** Events from the first to the job's end; a cut connection goes on after the last one seen. */
  async *#events(job: string): AsyncGenerator<JobEvent> {
    let lastId = "";
    for (let attempt = 0; attempt < MAX_RECONNECTS; attempt += 1) {
      const response = await fetch(`${this.#base}/v1/jobs/${job}/events`, {
        headers: { accept: "text/event-stream", ...(lastId === "" ? {} : { "last-event-id": lastId }) },
      });
      if (!response.ok || !response.body)
        throw new Error(`events of ${job}: ${response.status} ${await response.text()}`);
      try {
        for await (const message of serverSentEvents(response.body)) {
          if (message.id !== "") lastId = message.id;
          if (message.data !== "") yield JSON.parse(message.data) as JobEvent;
        }
        return;
      } catch (error) {
        if (attempt + 1 === MAX_RECONNECTS) throw error;
      }
    }
  }
}

/** Splits a byte stream into server-sent events (HTML Living Standard, section 9.2). */
async function* serverSentEvents(
  body: ReadableStream<Uint8Array>,
): AsyncGenerator<{ id: string; event: string; data: string }> {
  const decoder = new TextDecoder();
  let buffer = "";
  for await (const chunk of body) {
    buffer += decoder.decode(chunk, { stream: true }).replaceAll("\r\n", "\n");
    for (let end = buffer.indexOf("\n\n"); end >= 0; end = buffer.indexOf("\n\n")) {
      const block = buffer.slice(0, end);
      buffer = buffer.slice(end + 2);
      const message = { id: "", event: "message", data: "" };
      for (const line of block.split("\n")) {
        const [field, value] = [line.slice(0, line.indexOf(":")), line.slice(line.indexOf(":") + 1).replace(/^ /, "")];
        if (field === "id" || field === "event") message[field] = value;
        if (field === "data") message.data += value;
      }
      yield message;
    }
  }
}

/**
 * Clients of the completions API, as the bench and the tests load a server with them: streaming requests that are
 * timed, answers in one piece, and crowds of clients of which some hang up, whose texts are compared with those of a quiet server.
 */
import { Agent, request } from "node:http";

export interface Ask {
  readonly model: string;
  readonly prompt: readonly number[];
  readonly max_tokens: number;
  readonly temperature: number;
  readonly seed: number;
}

export interface Streamed {
  /** From the request to its first token. */
  readonly firstTokenMs: number;
  readonly totalMs: number;
  readonly tokens: number;
  /** The tokens as the API shows them, one after another. */
  readonly text: string;
}

interface Chunk {
  readonly error?: { readonly message: string };
  readonly choices: readonly { readonly logprobs: { readonly tokens: readonly string[] } | null }[];
}

/** @throws Refused for a status other than 200; AbortError; Error when the stream breaks */
export async function stream(url: string, ask: Ask, signal?: AbortSignal): Promise<Streamed> {
  const startedAt = performance.now();
  const response = await fetch(`${url}/v1/completions`, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ ...ask, stream: true, logprobs: 0 }),
    ...(signal ? { signal } : {}),
  });
  if (response.status !== 200 || !response.body) {
    await response.body?.cancel();
    throw new Refused(response.status, response.headers.get("retry-after"));
  }
  let firstTokenMs = NaN;
  let rest = "";
  let isDone = false;
  const tokens: string[] = [];
  for await (const part of response.body.pipeThrough(new TextDecoderStream())) {
    const lines = (rest + part).split("\n");
    rest = lines.pop() ?? "";
    for (const line of lines) {
      if (line === "data: [DONE]") isDone = true;
      if (!line.startsWith("data: {")) continue;
      const chunk = JSON.parse(line.slice(6)) as Chunk;
      if (chunk.error) throw new Error(chunk.error.message);
      const made = chunk.choices[0]?.logprobs?.tokens ?? [];
      if (tokens.length === 0 && made.length > 0) firstTokenMs = performance.now() - startedAt;
      tokens.push(...made);
    }
  }
  if (!isDone) throw new Error("the stream ended without [DONE]");
  return { firstTokenMs, totalMs: performance.now() - startedAt, tokens: tokens.length, text: tokens.join("") };
}

/** Connections that stay, for `complete`. */
export function keptConnections(): Agent {
  return new Agent({ keepAlive: true, maxSockets: 64 });
}

/**
 * One completion in one piece, as clients ask that want many: it reads the answer once and looks at nothing before.
 * @returns its tokens, as `usage` counts them @throws Refused; Error when the connection breaks
 */
export async function complete(url: string, ask: Ask, agent: Agent): Promise<{ tokens: number; text: string }> {
  const { status, body } = await new Promise<{ status: number; body: string }>((resolve, reject) => {
    const headers = { "Content-Type": "application/json" };
    const sent = request(`${url}/v1/completions`, { method: "POST", headers, agent }, (answer) => {
      const read: Buffer[] = [];
      answer.on("data", (part: Buffer) => read.push(part));
      answer.on("end", () => resolve({ status: answer.statusCode ?? 0, body: Buffer.concat(read).toString() }));
      answer.on("error", reject);
    });
    sent.on("error", reject);
    sent.end(JSON.stringify(ask));
  });
  if (status !== 200) throw new Refused(status, null);
  const whole = JSON.parse(body) as { usage: { completion_tokens: number }; choices: { text: string }[] };
  return { tokens: whole.usage.completion_tokens, text: whole.choices[0]?.text ?? "" };
}

/** An answer that is no stream. */
export class Refused extends Error {
  readonly status: number;
  readonly retryAfter: string | null;
  constructor(status: number, retryAfter: string | null) {
    super(`status ${status}`);
    this.status = status;
    this.retryAfter = retryAfter;
  }
}

export interface CrowdResult {
  readonly completed: number;
  /** Of each client: how often it got its text. */
  readonly completedBy: readonly number[];
  readonly left: number;
  /** Told 429, with a time to come again. */
  readonly turnedAway: number;
  /** Texts that differ from the expected one. */
  readonly wrong: number;
  /** Anything else, by its message. */
  readonly failures: readonly string[];
}

/**
 * `clients` at once for `seconds`: each asks again and again, a third hangs up in between, those turned away wait.
 * @param expected the text of each of `asks`
 */
export async function crowd(
  url: string,
  asks: readonly Ask[],
  expected: readonly string[],
  { clients, seconds, seed }: { clients: number; seconds: number; seed: number },
): Promise<CrowdResult> {
  const deadline = performance.now() + seconds * 1000;
  const failures: string[] = [];
  const counts = { completed: 0, left: 0, turnedAway: 0, wrong: 0 };
  const completedBy = Array.from({ length: clients }, () => 0);
  async function client(number: number): Promise<void> {
    const random = uniform(seed * 1000 + number);
    while (performance.now() < deadline) {
      const which = Math.floor(random() * asks.length);
      const controller = new AbortController();
      const timer = random() < 1 / 3 ? setTimeout(() => controller.abort(), random() * 300) : undefined;
      try {
        const { text } = await stream(url, asks[which]!, controller.signal);
        counts.completed++;
        completedBy[number]! += 1;
        if (text !== expected[which]) counts.wrong++;
      } catch (error) {
        if (controller.signal.aborted) counts.left++;
        else if (error instanceof Refused && error.status === 429 && error.retryAfter !== null) {
          counts.turnedAway++;
          await new Promise((resolve) => setTimeout(resolve, 100 + random() * 200));
        } else if (failures.length < 20) failures.push(String(error));
      } finally {
        clearTimeout(timer);
      }
    }
  }
  await Promise.all(Array.from({ length: clients }, (_, number) => client(number)));
  return { ...counts, completedBy, failures };
}

/** @returns a repeatable stream of numbers in [0, 1). */
export function uniform(seed: number): () => number {
  let state = (seed * 2654435761 + 12345) >>> 0;
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 32;
  };
}

/** @returns the value of a metric without labels in Prometheus's text form. */
export async function metric(url: string, name: string): Promise<number> {
  const text = await (await fetch(`${url}/metrics`)).text();
  return Number(new RegExp(`^${name} (.+)$`, "m").exec(text)?.[1] ?? NaN);
}
